"""Tasks in a folder: `<root>/<task>.<split>.jsonl`, an object a line with instruction, input, output and answer.

A line has answer options, or a number as its answer; the lines of a file are of one kind.
"""

import json
import re
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset

from gallop_ray.tasks.answers import as_number
from gallop_ray.tasks.examples import SPLITS, Example, Split, reasoned

_KEYS = ("instruction", "input", "output", "answer")
_TOLD = 5  # lines that cannot be used, at most
_OPTIONS = re.compile(r"Answer format: *(\S.*?)\s*$")


def folder_tasks(root: Path) -> list[str]:
    """Names of the tasks in the folder; ValueError where it does not exist."""
    if not root.is_dir():
        raise ValueError(
            f"data.root {root} is not a folder; give a folder of <task>.<split>.jsonl, `hub` or `generated`"
        )
    return sorted(
        {path.name.removesuffix(f".{split}.jsonl") for split in SPLITS for path in root.glob(f"*.{split}.jsonl")}
    )


def folder_splits(root: Path, task: str) -> list[Split]:
    """The splits that the folder holds of a task."""
    return [split for split in SPLITS if _path(root, task, split).exists()]


def folder_examples(root: Path, task: str, split: Split) -> list[Example]:
    """All examples of a split, in the file's order; ValueError names the first lines that cannot be used."""
    path = _path(root, task, split)
    # Read as text, so that a broken line is reported with its number.
    lines = load_dataset("text", data_files=str(path), split="train")
    assert isinstance(lines, Dataset)
    found: list[Example] = []
    wrong: list[str] = []
    for number, line in enumerate(lines["text"], 1):
        if not line.strip():
            continue
        try:
            found.append(_like(found, _example(line, f"{path}:{number}"), f"{path}:{number}"))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        more = [f"and {len(wrong) - _TOLD} lines more"] if len(wrong) > _TOLD else []
        raise ValueError("\n".join([*wrong[:_TOLD], *more]))
    return found


def _like(before: list[Example], example: Example, place: str) -> Example:
    """The example, if it is of the first one's kind."""
    if before and (before[0].number is None) != (example.number is None):
        has, had = ("options", "a number") if example.number is None else ("a number", "options")
        raise ValueError(f"{place}: this line has {has}, the first one {had}; make two tasks of them")
    return example


def _path(root: Path, task: str, split: Split) -> Path:
    return root / f"{task}.{split}.jsonl"


def _example(line: str, place: str) -> Example:
    row = _row(line, place)
    answer, output = row["answer"], row["output"]
    listed, number = _OPTIONS.search(row["instruction"].rstrip().rpartition("\n")[2]), as_number(answer)
    if listed is None and number is not None:
        return reasoned(row["instruction"], row["input"], output, number)
    options = _options(listed, place)
    if answer not in options:
        raise ValueError(f"{place}: answer {answer!r} is not among the options {'/'.join(options)}")
    if not _word(answer).search(output):
        raise ValueError(f"{place}: output {output!r} does not contain the answer {answer!r}; write it into the output")
    # Split and join instead of re.sub, which would read backslashes in an option.
    texts = tuple(option.join(_word(answer).split(output)) for option in options)
    return Example(row["instruction"], row["input"], texts, options, options.index(answer))


def _row(line: str, place: str) -> dict[str, str]:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not a JSON object ({error}); write one object on each line") from error
    wrong = [key for key in _KEYS if not isinstance(row, dict) or not isinstance(row.get(key), str)]
    if wrong:
        raise ValueError(f"{place}: {', '.join(wrong)} missing or not text; every line needs {', '.join(_KEYS)}")
    return {key: row[key] for key in _KEYS}


def _options(listed: re.Match[str] | None, place: str) -> tuple[str, ...]:
    options = tuple(option.strip() for option in listed[1].split("/")) if listed else ()
    if len(set(options)) < 2 or len(set(options)) < len(options) or not all(options):
        raise ValueError(
            f"{place}: no answer options; end the instruction with a line `Answer format: answer1/answer2`, or give a "
            "number as the answer"
        )
    return options


def _word(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")
