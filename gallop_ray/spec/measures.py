"""Every measure of a task's examples, in one table: what it is called, where its numbers lie, how it is worked out.

A task counts by one measure, and may have more (`measure` and `also` of data.tasks). Whatever shows, compares or checks
numbers of a task reads this table. docs/metrics.md defines those that are built in.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from gallop_ray.spec.plugins import installed, is_reference
from gallop_ray.spec.problems import did_you_mean

GROUP = "gallop_ray.measures"
"""The entry points by which a package offers measures: `name = "module:function"`."""
By = Literal["likelihood", "generation", "loss", "margin"]
Normalize = Literal["sum", "characters", "bytes", "unconditional"]
_ROUNDING = 1e-9
_FILE = re.compile(r"([A-Za-z_]\w*)\.py:([A-Za-z_]\w*)")


@dataclass(frozen=True)
class Measure:
    """One number for each example, by what a model holds likely, by what it generates, its loss or its margin.

    `name` is that of the way in records. function: `module:function` of (outputs, examples) to a number for each, for
    measures by generation. needs: the package that it takes, of the optional extra [measures].
    """

    name: str
    label: str
    by: By
    function: str = ""
    larger_is_better: bool = True
    bounds: tuple[float, float | None] = (0.0, 1.0)
    needs: str = ""


_HERE = "gallop_ray.tasks.text_measures"
_TABLE = (
    Measure("likelihood", "accuracy by likelihood", "likelihood"),
    Measure("acc", "accuracy by the sum of log-likelihoods", "likelihood"),
    Measure("acc_norm", "accuracy by log-likelihood per character", "likelihood"),
    Measure("acc_bytes", "accuracy by log-likelihood per byte", "likelihood"),
    Measure("acc_unconditional", "accuracy by log-likelihood less the unconditional one", "likelihood"),
    Measure("generated", "accuracy by generation", "generation"),
    Measure("exact_match", "exact match", "generation", f"{_HERE}:exact_match"),
    Measure("contains", "answer contained", "generation", f"{_HERE}:contains"),
    Measure("f1", "token F1", "generation", f"{_HERE}:token_f1"),
    Measure("rouge1", "ROUGE-1", "generation", f"{_HERE}:rouge1", needs="rouge_score"),
    Measure("rougeL", "ROUGE-L", "generation", f"{_HERE}:rouge_l", needs="rouge_score"),
    Measure("bleu", "BLEU", "generation", f"{_HERE}:bleu", needs="sacrebleu"),
    Measure("chrf", "chrF", "generation", f"{_HERE}:chrf", needs="sacrebleu"),
    Measure("json_valid", "valid JSON", "generation", f"{_HERE}:json_valid"),
    Measure("json_equal", "equal JSON", "generation", f"{_HERE}:json_equal"),
    Measure("numeric", "right number", "generation", f"{_HERE}:numeric"),
    Measure("loss", "loss", "loss", larger_is_better=False, bounds=(0.0, None)),
    Measure("margin", "margin of the right answer", "margin", bounds=(-math.inf, None)),  # beside a likelihood, always
)
BUILT_IN: Mapping[str, Measure] = {each.name: each for each in _TABLE}
NORMALIZED: Mapping[Normalize, str] = {
    "sum": "acc",
    "characters": "acc_norm",
    "bytes": "acc_bytes",
    "unconditional": "acc_unconditional",
}
"""The measure of a choice by its normalisation."""
_BY_THE_SUM = {
    *("boolq", "winogrande", "siqa", "social_iqa", "social_i_qa", "copa", "race", "commonsense_qa", "commonsenseqa"),
    *("wsc", "wsc273", "wic", "rte", "cb", "mnli", "qnli", "qqp", "mrpc", "sst2", "wnli", "anli_r1", "anli_r2"),
    *("anli_r3", "truthfulqa_mc1", "storycloze_2016", "storycloze_2018", "pubmedqa"),
}
_FAMILIES_BY_THE_SUM = ("mmlu", "blimp", "xcopa", "xnli")
"""Each a task, and the beginning of its parts' names, as in mmlu_anatomy."""


def normalization(task: str) -> Normalize:
    """What a task's choices are normalised by where nothing is said: as lm-evaluation-harness reports that task.

    Per character, as it does wherever answers are texts of different lengths; but the sum where it reports no other.
    """
    name = task.lower().replace("-", "_")
    of_family = any(f"{name}_".startswith(f"{each}_") for each in _FAMILIES_BY_THE_SUM)
    return "sum" if of_family or name in _BY_THE_SUM else "characters"


def known() -> list[str]:
    """The names that a task may count by, without references."""
    named = (each.name for each in _TABLE if each.name not in NORMALIZED.values() and each.by != "margin")
    return [*named, *sorted(installed(GROUP))]


def reference(name: str) -> str:
    """A measure's name as it is kept: `file.py:function` is `file:function`. Raises ValueError."""
    if is_reference(name.replace(".py:", ":")) and (own := plain_name(name)) in BUILT_IN:
        raise ValueError(f"{name}: a measure that is built in is called {own}; give your function another name")
    if found := _FILE.fullmatch(name):
        return f"{found[1]}:{found[2]}"
    if name in known() or is_reference(name):
        return name
    if ".py:" in name:
        raise ValueError("must be a file beside the sweep file and a function of it, such as my_measures.py:score")
    listed = ", ".join(known())
    raise ValueError(f"must be one of {listed}, or module:function or file.py:function{did_you_mean(name, known())}")


def plain_name(name: str) -> str:
    """What a measure is called in records: one of the user's own as its function."""
    return name.rpartition(":")[2]


def measure(name: str) -> Measure:
    """The measure of a name as `reference` gives it. One that is not built in is known by its function's name."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    if is_reference(name):
        plain = plain_name(name)
        return Measure(plain, plain.replace("_", " "), "generation", name)
    return Measure(name, name.replace("_", " "), "generation", installed(GROUP)[name].value)


def label_of(way: str) -> str:
    """A way of records as people say it."""
    return BUILT_IN[way].label if way in BUILT_IN else way.replace("_", " ")


def possible(way: str, value: float) -> bool:
    """Whether a way of records can have this value; of a user's own only shares count."""
    low, high = BUILT_IN[way].bounds if way in BUILT_IN else (0.0, 1.0)
    return low - _ROUNDING <= value and (high is None or value <= high + _ROUNDING)


def all_possible(ways: Mapping[str, Iterable[float]]) -> bool:
    """Whether these values, by way, can be."""
    return all(possible(way, value) for way, values in ways.items() for value in values)
