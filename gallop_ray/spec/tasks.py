"""`data.tasks`: tasks of the user's own files, folders and hub datasets, and how a row becomes an example."""

import re
from glob import glob, has_magic
from typing import Annotated, Literal

from jinja2 import Environment, TemplateSyntaxError, meta
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from gallop_ray.disk.bucket.address import is_bucket
from gallop_ray.spec.basics import BASICS, basics_name, basics_source
from gallop_ray.spec.frozen import Frozen
from gallop_ray.spec.harness import harness_path
from gallop_ray.spec.measures import Normalize, plain_name, reference
from gallop_ray.spec.places import is_file, is_folder, path_or_address
from gallop_ray.spec.plugins import installed, is_reference
from gallop_ray.spec.problems import did_you_mean


def _measure_name(name: str, info: ValidationInfo) -> str:
    """Records may name a measure whose package is not installed here."""
    stored = isinstance(info.context, dict) and info.context.get("stored")
    return name if stored else reference(name)


MeasureName = Annotated[str, AfterValidator(_measure_name)]
SplitName = Literal["train", "validation", "test"]
Formulation = Literal["cloze", "label"]
Learn = Literal["all", "last"]
Labels = Literal["name", "letter", "text", "index", "number"]
Share = Annotated[float, Field(gt=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
_ENVIRONMENT = Environment()
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
FORMATS = ("house", "messages", "sharegpt", "prompt", "alpaca", "choice", "label", "text", "template")
"""Those that are built in; what fits which columns, gallop_ray.tasks.formats says."""
_FREE = ("messages", "sharegpt", "prompt", "alpaca", "text")  # formats whose answers are free text
OF_SOURCES = ("config", "revision", "splits", "format", "columns", "prompt", "answer", "options", "labels")
"""The fields that are about a source's rows."""
FORMAT_GROUP = "gallop_ray.formats"
"""The entry points by which a package offers formats: `name = "module:object"`, an object of class Format."""

COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""The ends of names of compressed files, and what they are compressed with."""
_KINDS = {
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "txt",
}
SUFFIXES = tuple(_KINDS)
"""The ends of names of files that rows are read from."""


def kind_of_file(name: str) -> str | None:
    """How a file is read, by its name, compressed or not; None for a name that says nothing."""
    name = name.lower()
    for packed in COMPRESSED:
        name = name.removesuffix(packed)
    return next((kind for suffix, kind in _KINDS.items() if name.endswith(suffix)), None)


def stem_of_file(name: str) -> str:
    """The name without the suffixes that say how a file is packed and read."""
    for suffix in (*COMPRESSED, *SUFFIXES):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name


def is_local(source: str) -> bool:
    """Whether a source is a path, a glob or an address in a bucket, and not a hub id."""
    return (
        is_bucket(source)
        or has_magic(source)
        or kind_of_file(source) is not None
        or is_folder(source)
        or is_file(source)
    )


def is_missing(source: str) -> bool:
    """Whether a source must be a path, for it is written like one, and nothing is there."""
    if is_bucket(source) or is_file(source) or is_folder(source):
        return False
    if has_magic(source):
        return not glob(source, recursive=True)
    return kind_of_file(source) is not None or source.startswith((".", "/", "~"))


def _task_name(name: str) -> str:
    """A part of metrics' and files' names."""
    if not re.fullmatch(_NAME, name):
        raise ValueError("must be of letters, digits, `_`, `.` and `-`, and start with a letter or a digit")
    return name


def _from_text(value: object) -> object:
    return {"source": value} if isinstance(value, str) else value


def _source(text: str) -> str:
    return text if basics_name(text) is not None else path_or_address(text)


class TaskSpec(Frozen):
    """One task: where its rows are, and how a row becomes an example. A text alone is its `source`."""

    source: Annotated[Text, AfterValidator(_source)] | None = Field(
        default=None,
        description="a file or glob of JSONL, JSON, CSV, TSV, Parquet, Arrow or text, a folder of `save_to_disk`, the "
        f"address of a file or folder in a bucket (s3://), a hub id, or {', '.join(map(basics_source, BASICS))}, which "
        "need no data; null: the task of this name in data.root",
    )
    config: str | None = Field(default=None, description="of a hub id: its configuration")
    revision: str | None = Field(default=None, description="of a hub id: branch, tag or commit")
    splits: dict[SplitName, Share | Text] = Field(
        default={},
        description="ours to theirs: a split's name, a file or a glob; or a share of the training rows, of which the "
        "test split has the rest where only `train` is given",
    )
    format: str | None = Field(
        default=None,
        description=f"{', '.join(FORMATS)}, or `module:object`; null: found by the columns, `doctor` says which",
    )
    columns: dict[Text, Text] = Field(default={}, description="a format's columns to those of the rows")
    prompt: Text | None = Field(default=None, description="Jinja template of a row's columns, for what is asked")
    answer: Text | None = Field(default=None, description="Jinja template of a row's columns, for the answer")
    options: tuple[Text, ...] | None = Field(default=None, description="the answers that all rows choose from")
    labels: Labels | None = Field(
        default=None,
        description="of choices and classes: labels are the choices' own names, letters, texts, indices from 0, or "
        "numbers from 1; null: what all rows can be",
    )
    formulation: Formulation | None = Field(
        default=None,
        description="choose by the answers' texts (cloze) or by their labels; null: data.formulation, else by texts "
        "where there are any",
    )
    learn: Learn = Field(default="all", description="of conversations: all of the assistant's turns, or the last")
    few_shot: int = Field(default=0, ge=0, description="solved training examples before each question")
    measure: MeasureName | None = Field(
        default=None,
        description="what the task counts by: generated, exact_match, contains, f1, rouge1, rougeL, bleu, chrf, "
        "json_valid, json_equal, numeric, loss, `module:function` or `file.py:function`; null: likelihood of the "
        "options, a number by generation, the loss of free text",
    )
    also: tuple[MeasureName, ...] = Field(default=(), description="more measures, of the test set")
    normalize: Normalize | None = Field(
        default=None,
        description="the log-likelihood of an option by its sum, per character, per byte, or less the unconditional "
        "one; null: as lm-evaluation-harness reports the task",
    )
    max_new_tokens: int | None = Field(default=None, ge=1, description="null: evaluation.max_new_tokens")
    stop: tuple[Text, ...] = Field(default=(), description="texts at which generation ends")
    harness: Annotated[Text, AfterValidator(harness_path)] | None = Field(
        default=None,
        description="a task of lm-evaluation-harness (extra [harness]) by its name, or a task's YAML file; it makes "
        "validation and test, beside a `source` to train on",
    )
    num_fewshot: int | None = Field(default=None, ge=0, description="of a harness task; null: as its file says")
    limit: int | None = Field(default=None, ge=1, description="of a harness task: documents of a split, at most")
    metric: Text | None = Field(
        default=None, description="of a harness task: what it counts by, as acc_norm; null: the first that it lists"
    )

    @property
    def counts_by_loss(self) -> bool:
        """Whether it is said here that the task counts by its loss: of free text that is so unless it has a measure."""
        return self.measure == "loss" or (self.measure is None and self.format in _FREE)

    @field_validator("splits", mode="after")
    @classmethod
    def _of_all(cls, splits: dict[SplitName, float | str]) -> dict[SplitName, float | str]:
        shares = {split: value for split, value in splits.items() if isinstance(value, float)}
        total = sum(shares.values())
        if total > 1 + 1e-9:
            raise ValueError(f"the shares add up to {total:g}; they are parts of the same rows, so at most 1")
        if total > 1 - 1e-9 and "train" not in shares:
            raise ValueError("the shares add up to 1, so that nothing is left to train on; make them smaller")
        return splits

    @field_validator("format", mode="after")
    @classmethod
    def _known_format(cls, name: str | None) -> str | None:
        known = (*FORMATS, *installed(FORMAT_GROUP))
        if name is not None and name not in known and not is_reference(name):
            listed = ", ".join(map(repr, known))
            raise ValueError(f"must be one of {listed}, or module:object{did_you_mean(name, known)}")
        return name

    @field_validator("also", mode="after")
    @classmethod
    def _called_apart(cls, also: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        named = [name for name in dict.fromkeys((info.data.get("measure"), *also)) if name]
        called = [plain_name(name) for name in named]
        if twice := next((name for name in called if called.count(name) > 1), None):
            raise ValueError(f"two measures are called {twice}; give their functions different names")
        return also

    @field_validator("prompt", "answer", mode="after")
    @classmethod
    def _is_template(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None:
            try:
                columns = meta.find_undeclared_variables(_ENVIRONMENT.parse(text))
            except TemplateSyntaxError as error:
                raise ValueError(f"must be a Jinja template: {error.message}") from None
            # A text without any may be meant so, but not what is data.prompt's, or what has a column in other braces.
            meant = text == "chat" or "{" in text
            if meant and not columns and not (isinstance(info.context, dict) and info.context.get("stored")):
                raise ValueError("names no column, so that all examples would have the same; write {{ column }}")
        return text


Task = Annotated[TaskSpec, BeforeValidator(_from_text, json_schema_input_type=TaskSpec | Text)]
TaskName = Annotated[str, AfterValidator(_task_name)]
OwnTasks = dict[TaskName, Task]
