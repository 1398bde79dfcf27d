"""Tasks in a folder: `<root>/<task>.<split>.jsonl`, an object a line with instruction, input, output and answer.

A line has answer options, or a number as its answer; the lines of a file are of one kind.
"""

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from gallop_ray.tasks.answers import as_number, keys_in
from gallop_ray.tasks.examples import SPLITS, Example, Split, reasoned

_BOM = b"\xef\xbb\xbf"
_OTHER_FILES = {
    b"\x1f\x8b": "compressed with gzip; unpack it",
    b"PK\x03\x04": "a zip archive or a spreadsheet; write one JSON object on each line",
    b"PAR1": "a Parquet file; write one JSON object on each line",
    b"\xff\xfe": "not UTF-8 but UTF-16 or UTF-32; save it as UTF-8",
    b"\xfe\xff": "not UTF-8 but UTF-16; save it as UTF-8",
    b"version https://git-lfs": "a pointer to a file in Git LFS; fetch it with git lfs pull",
    b"[": "a JSON array; write one object on each line, without brackets and commas around them",
}
_HEAD = 64  # bytes in which text has no zero, unless it is UTF-16


def read_lines(path: Path) -> list[tuple[str, bytes]]:
    """`file:line` and content of each line that is not blank.

    Lines end with a line feed and nowhere else: U+2028, U+2029 and U+0085 may stand in a JSON string. A byte order
    mark at the start is left out. Raises ValueError for a file that cannot be read, that is empty, or that is of
    another kind.
    """
    try:
        content = path.read_bytes().removeprefix(_BOM)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    start = content[:_HEAD].lstrip()
    kind = next((text for magic, text in _OTHER_FILES.items() if start.startswith(magic)), None)
    if kind is None and b"\0" in content[:_HEAD]:
        kind = "not UTF-8 but UTF-16, or no text; save it as UTF-8"
    if kind is not None:
        raise ValueError(f"{path}:1: the file is {kind}")
    lines = [(f"{path}:{number}", line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path}:1: the file is empty; write one JSON object on each line")
    return lines


def json_object(line: bytes, place: str) -> dict[str, Any]:
    """The object on a line. Raises ValueError, which begins with `place`, where there is none."""
    try:
        row: Any = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{line[error.start]:02x} at {error.start + 1}"
        raise ValueError(f"{place}: not UTF-8 ({wrong}); save the file as UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"{place}: nested too deeply; write one object of plain fields") from error
    except ValueError as error:  # json's own, and Python's for a number of thousands of digits
        raise ValueError(f"{place}: not a JSON object ({error}); write one object on each line") from error
    if not isinstance(row, dict):
        raise ValueError(f"{place}: not a JSON object; write one object on each line")
    return row


def check_characters(text: str, field: str, place: str) -> None:
    r"""Raises ValueError where the text has half of a character, as `"\ud83d"` alone is; no tokenizer takes that."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start].encode("ascii", "backslashreplace").decode()
        raise ValueError(
            f"{place}: {field} has half of a character ({half}, a lone surrogate); write the whole character"
        ) from error


def file_texts(path: Path) -> Iterator[str]:
    """The texts of a file, a line each. Raises ValueError naming the line that has none."""
    try:
        for place, line in read_lines(path):
            text = json_object(line, place).get("text")
            if not isinstance(text, str):
                raise ValueError(f"{place}: text missing or not text; every line needs it")
            check_characters(text, "text", place)
            yield text
    except ValueError as error:
        raise ValueError(f"evaluation.text: {error}") from error


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
