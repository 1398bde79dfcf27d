"""LLM-Adapters' format: instruction, input, output and answer; options are listed in the instruction.

An example has answer options, or a number as its answer; those of a task are of one kind. Where the instruction lists
the answers' texts (`Answer1: ... Answer2: ...`), these can be compared instead of their labels.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any

from gallop_ray.spec.tasks import Formulation
from gallop_ray.tasks.answers import as_number, keys_in
from gallop_ray.tasks.examples import Example, reasoned
from gallop_ray.tasks.formats.contract import Format, Maker, Reading, with_row
from gallop_ray.tasks.formats.wording import Choice, question_prompt, worded
from gallop_ray.tasks.lines import check_characters
from gallop_ray.tasks.sources.table import Placed, Row, each_row

_OPTIONS = re.compile(r"Answer format: *(\S.*?)\s*$")
# The header is left to right up to its colon: questions have colons of their own.
_HEADER = re.compile(r"\s*Please choose the correct (?P<what>answer|solution|ending)\b[^:\n]*: *", re.IGNORECASE)
_BLANK = re.compile(r"fill in the blank", re.IGNORECASE)
_SAYS_NO_MORE = re.compile(
    r"(?:the )?(?:correct |right |best )?(?:answer|solution|ending|option|choice)?(?: is)?:? *", re.IGNORECASE
)


def house_examples(rows: Sequence[Placed], formulation: Formulation) -> list[Example]:
    """The examples of a split, by texts or by labels. Raises ValueError for what cannot be used, and for two kinds."""
    found: list[Example] = []

    def make(row: Row, place: str) -> Example:
        found.append(with_row(_like(found, house_example(row, place, formulation)), row))
        return found[-1]

    return each_row(rows, make)


def house_formulation(rows: Sequence[Placed]) -> Formulation:
    """cloze where every row with options lists their texts, and its output says no more than which is right."""
    return "label" if any(_choice(row, place) is None for place, row in rows) else "cloze"


def house_example(row: Mapping[str, Any], place: str, formulation: Formulation) -> Example:
    """One example. Raises ValueError, which begins with the place."""
    example = _example(row, place)
    if formulation == "label" or example.kind != "choice":
        return example
    if (choice := _choice(row, place)) is None:
        raise ValueError(
            f"{place}: the answers' texts are not in the instruction; list them, or take formulation: label"
        )
    return worded(choice, "cloze")


def _choice(row: Mapping[str, Any], place: str) -> Choice | None:
    """The question and the texts of a row's options; None where they cannot be found."""
    instruction, output, answer = (row.get(name) for name in ("instruction", "output", "answer"))
    if not isinstance(instruction, str) or not isinstance(output, str) or not isinstance(answer, str):
        return None
    head, _, last = instruction.rstrip().rpartition("\n")
    listed = _OPTIONS.search(last)
    keys = tuple(option.strip() for option in listed[1].split("/")) if listed else ()
    if answer not in keys or _BLANK.search(head) or not _only_says(output, answer):
        return None
    found = _texts_of(head, keys)
    if found is None:
        return None
    asked, texts = found
    header = _HEADER.match(asked)
    question = asked[header.end() :] if header else asked
    context = row.get("input")
    if isinstance(context, str) and context.strip():
        question = f"{question}\n{context}"
    ending = header is not None and header["what"].lower() == "ending"
    prompt = question.strip() if ending else question_prompt(question.strip())
    return Choice(prompt, texts, keys.index(answer), place)


def _only_says(output: str, answer: str) -> bool:
    """Whether an output has nothing to learn but which option is right."""
    before, found, after = output.strip().rpartition(answer)
    return bool(found) and after.strip() in ("", ".") and _SAYS_NO_MORE.fullmatch(before) is not None


def _texts_of(head: str, keys: Sequence[str]) -> tuple[str, tuple[str, ...]] | None:
    """What stands before the first `key:`, and what stands after each; None where one is not there, or is empty."""
    marks, start = [], 0
    for key in keys:
        found = re.compile(rf"(?<!\w){re.escape(key)} *: *", re.IGNORECASE).search(head, start)
        if found is None:
            return None
        marks.append(found)
        start = found.end()
    ends = [*(each.start() for each in marks[1:]), len(head)]
    texts = tuple(head[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True))
    asked = head[: marks[0].start()].strip()
    return (asked, texts) if asked and all(texts) and len(set(texts)) > 1 else None


def _like(before: list[Example], example: Example) -> Example:
    """The example, if it is of the first one's kind."""
    if before and (before[0].number is None) != (example.number is None):
        has, had = ("options", "a number") if example.number is None else ("a number", "options")
        raise ValueError(f"{example.place}: this line has {has}, the first one {had}; make two tasks of them")
    return example


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
    stands = [(found.start, found.end) for found in keys_in(output, options) if found.key == answer]
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


def _is_house(columns: Collection[str], row: Row) -> bool:
    return {"instruction", "output", "answer"} <= set(columns)


def _maker(reading: Reading) -> Maker:
    rows = [placed for table in reading.tables for placed in table.rows]
    formulation = reading.task.formulation or house_formulation(rows)
    return lambda row, place: house_example(row, place, formulation)


HOUSE = Format(("instruction", "input", "output", "answer"), _is_house, _maker)
