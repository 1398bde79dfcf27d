"""Tasks in a folder: `<root>/<task>.<split>.jsonl`, an object a line with instruction, input, output and answer.

A line has answer options, or a number as its answer; the lines of a file are of one kind.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from gallop_ray.tasks.answers import as_number, keys_in
from gallop_ray.tasks.examples import SPLITS, Example, Split, reasoned
from gallop_ray.tasks.lines import check_characters, json_object, read_lines

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
    found: list[Example] = []
    wrong: list[str] = []
    for place, line in read_lines(_path(root, task, split)):
        try:
            found.append(_like(found, _example(json_object(line, place), place)))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        more = [f"and {len(wrong) - _TOLD} lines more"] if len(wrong) > _TOLD else []
        raise ValueError("\n".join([*wrong[:_TOLD], *more]))
    return found


def _like(before: list[Example], example: Example) -> Example:
    """The example, if it is of the first one's kind."""
    if before and (before[0].number is None) != (example.number is None):
        has, had = ("options", "a number") if example.number is None else ("a number", "options")
        raise ValueError(f"{example.place}: this line has {has}, the first one {had}; make two tasks of them")
    return example


def _path(root: Path, task: str, split: Split) -> Path:
    return root / f"{task}.{split}.jsonl"


def _example(row: Mapping[str, Any], place: str) -> Example:
    instruction, text, output = _texts(row, place)
    listed = _OPTIONS.search(instruction.rstrip().rpartition("\n")[2])
    options = tuple(option.strip() for option in listed[1].split("/")) if listed else ()
    answer = _answer(row["answer"], options)
    check_characters(answer, "answer", place)
    if listed is None and (number := as_number(answer)) is not None:
        return reasoned(instruction, text, output, number, place)
    if len(set(options)) < 2 or len(set(options)) < len(options) or not all(options):
        raise ValueError(
            f"{place}: no answer options; end the instruction with a line `Answer format: answer1/answer2`, or give a "
            "number as the answer"
        )
    if answer not in options:
        raise ValueError(f"{place}: answer {answer!r} is not among the options {'/'.join(options)}")
    stands = [found.span() for found in keys_in(output, options) if found[0] == answer]
    if not stands:
        raise ValueError(f"{place}: output {output!r} does not contain the answer {answer!r}; write it into the output")
    texts = tuple(_with(output, stands, option) for option in options)
    return Example(instruction, text, texts, options, options.index(answer), place=place)


def _texts(row: Mapping[str, Any], place: str) -> tuple[str, str, str]:
    """instruction, input and output; an input that is null or missing is empty."""
    texts = [row.get("instruction"), "" if row.get("input") is None else row["input"], row.get("output")]
    named = dict(zip(("instruction", "input", "output"), texts, strict=True))
    wrong = [key for key, value in named.items() if not isinstance(value, str)]
    wrong += ["answer"] * (not isinstance(row.get("answer"), str | int | float))
    if wrong:
        raise ValueError(
            f"{place}: {', '.join(wrong)} missing or not text; every line needs instruction, output and answer, and "
            "may have an input"
        )
    instruction, context, output = (str(text) for text in texts)
    for key, value in (("instruction", instruction), ("input", context), ("output", output)):
        check_characters(value, key, place)
    if not output.strip():
        raise ValueError(f"{place}: output is empty; write what the model is to say, with the answer in it")
    return instruction, context, output


def _answer(value: str | int | float, options: tuple[str, ...]) -> str:
    """The answer as text. A number or a boolean is what the options call it, else what JSON calls it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return next((each for each in options if each.lower() == str(value).lower()), str(value).lower())
    written = format(Decimal(repr(value)), "f")  # no exponent, which is no number where answers are read
    whole = written.removesuffix(".0")
    return whole if whole in options else written


def _with(output: str, stands: list[tuple[int, int]], option: str) -> str:
    """The output with the option in the places of its answer."""
    starts, ends = [0, *(end for _, end in stands)], [*(start for start, _ in stands), len(output)]
    return option.join(output[start:end] for start, end in zip(starts, ends, strict=True))
