"""Free text: a prompt and its completion under the names that people give them, Alpaca, plain text, own templates."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gallop_ray.tasks.examples import Example, Message, free
from gallop_ray.tasks.formats.choice import CONTEXTS, first_of
from gallop_ray.tasks.formats.classes import CLASSES, LABELS, ClassReader, class_reader
from gallop_ray.tasks.formats.contract import Format, Maker, Reading, refuse_unused, text_of
from gallop_ray.tasks.formats.conversations import prompt_and_completion
from gallop_ray.tasks.formats.lists import as_list
from gallop_ray.tasks.formats.templates import rendered
from gallop_ray.tasks.formats.wording import Choice, joint_of, worded
from gallop_ray.tasks.sources.table import Row

_SYSTEMS = ("system", "system_prompt")
_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("input", "output"),
    ("source", "target"),
    ("document", "summary"),
    ("article", "highlights"),
)


def _pair(columns: Collection[str]) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if set(pair) <= set(columns)), None)


def _is_pair(columns: Collection[str], row: Row) -> bool:
    return _pair(columns) is not None


def _pair_maker(reading: Reading) -> Maker:
    """Prompt and completion; where all of them meet with a blank they are joined as they are, as TRL does it."""
    columns = [name for table in reading.tables for name in table.columns]
    asked, said = _pair(columns) or ("prompt", "completion")
    rows = [row for table in reading.tables for _, row in table.rows]
    joint = (
        ""
        if (asked, said) == ("prompt", "completion") and reading.task.prompt is None and all(map(_meet, rows))
        else None
    )
    systems = _systems(rows)

    def make(row: Row, place: str) -> Example:
        several = _texts(row, said)
        if several is None and (found := prompt_and_completion(row, asked, said, place)) is not None:
            return found
        refuse_unused(reading, row, ("choices", "options"), asked, place)
        _refuse_judged(reading, row, place)
        prompt = _asked(reading, row, asked, place)
        context = _context(reading, row, asked, said, place)
        completion, *references = several or (text_of(row, said, place),)
        others = _texts(row, "references") or (_texts(row, "answers") if said == "answer" else None) or ()
        references += [each for each in others if each not in (completion, *references)]
        if systems:
            turns = _turns(row, "\n".join(filter(None, (prompt, context))), completion, place)
            return replace(turns, references=tuple(references))
        return Example(prompt, context, (completion,), (), 0, joint=joint, references=tuple(references), place=place)

    return make


def _texts(row: Row, column: str) -> tuple[str, ...] | None:
    """The right answers of a row that has a list of them; None for one text, or for messages."""
    items = None if isinstance(row.get(column), str) else as_list(row.get(column))
    if not items or not all(isinstance(each, str) and each.strip() for each in items):
        return None
    return tuple(items)


def _asked(reading: Reading, row: Row, column: str, place: str) -> str:
    """What is asked: the task's own template, else the column."""
    own = reading.task.prompt
    return text_of(row, column, place) if own is None else rendered(own, row, place, "prompt")


def _refuse_judged(reading: Reading, row: Row, place: str) -> None:
    """Raises ValueError for what is not to be learnt: completions that people judged, each good or bad."""
    if reading.task.format is None and isinstance(row.get("label"), bool):
        raise ValueError(
            f"{place}: label is {str(row['label']).lower()}, and every completion would be learnt; keep those that are "
            "good, and give format: prompt"
        )


def _context(reading: Reading, row: Row, asked: str, said: str, place: str) -> str:
    """What a question is about; a prompt holds that itself."""
    column = first_of([name for name in CONTEXTS if name not in (asked, said)], row)
    if column is None or asked not in ("question", "query") or reading.task.prompt is not None:
        return ""
    if reading.task.format is not None and not isinstance(row[column], str):
        return ""  # documents with titles, as HotpotQA has them, are left out where the format is named
    return text_of(row, column, place, optional=True)


def _meet(row: Row) -> bool:
    prompt, completion = row.get("prompt"), row.get("completion")
    if not isinstance(prompt, str) or not isinstance(completion, str):
        return False
    return prompt[-1:].isspace() or completion[:1].isspace()


def _systems(rows: Iterable[Row]) -> bool:
    """Whether the rows are conversations: one with a system message or with turns before is, and all rows are alike."""
    return any(as_list(row.get("history")) or any(_is_text(row.get(name)) for name in _SYSTEMS) for row in rows)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _turns(row: Row, prompt: str, answer: str, place: str) -> Example:
    """The conversation of a row: the system's message, pairs of question and answer before (`history`), and these."""
    system = next((text for name in _SYSTEMS if (text := text_of(row, name, place, optional=True)).strip()), "")
    turns = [Message("system", system)] if system else []
    for pair in as_list(row.get("history")) or ():
        texts = as_list(pair) or []
        if len(texts) != 2 or not all(map(_is_text, texts)):
            raise ValueError(f"{place}: history has {pair!r:.60}, no pair of question and answer")
        turns += [Message("user", texts[0]), Message("assistant", texts[1])]
    turns += [Message("user", prompt), Message("assistant", answer)]
    return Example("", "", (answer,), (), 0, messages=tuple(turns), place=place)


_EXTRA = (*_SYSTEMS, "history", *CONTEXTS)
PROMPT = Format(
    (*dict.fromkeys(name for pair in _PAIRS for name in pair), "references", *_EXTRA), _is_pair, _pair_maker
)


def _is_alpaca(columns: Collection[str], row: Row) -> bool:
    return {"instruction", "output"} <= set(columns) or {"instruction", "response"} <= set(columns)


def _alpaca_maker(reading: Reading) -> Maker:
    systems = _systems(row for table in reading.tables for _, row in table.rows)

    def make(row: Row, place: str) -> Example:
        instruction = _asked(reading, row, "instruction", place)
        said = "response" if "response" in row and "output" not in row else "output"
        context = next((name for name in ("input", "context") if name in row), "input")
        text = text_of(row, context, place, optional=True) if reading.task.prompt is None else ""
        answer = text_of(row, said, place)
        if systems:
            return _turns(row, "\n".join(filter(None, (instruction, text))), answer, place)
        return free(instruction, text, answer, place)

    return make


ALPACA = Format(("instruction", "input", "output", "response", *_EXTRA), _is_alpaca, _alpaca_maker)


def _plainly(name: str) -> str:
    return name.strip().lower()


def _is_plain(columns: Collection[str], row: Row) -> bool:
    return "text" in columns


def _plain_maker(reading: Reading) -> Maker:
    """Text alone; a column that is a label but for its case or blanks may not be lost."""
    if reading.task.format is None:
        place, first = reading.tables[0].rows[0]
        if near := next((name for name in first if name not in CLASSES.columns and _plainly(name) in LABELS), None):
            raise ValueError(
                f"{place}: the column {near!r} is not read; give columns: {{{_plainly(near)}: {near}}}, or format: "
                "text to learn the text alone"
            )
    return lambda row, place: free("", "", text_of(row, "text", place), place)


PLAIN = Format(("text",), _is_plain, _plain_maker)


def _template_maker(reading: Reading) -> Maker:
    task = reading.task
    if task.prompt is None or task.answer is None:
        raise ValueError("format template needs prompt and answer, two Jinja templates of the rows' columns")
    prompt, answer, options = task.prompt, task.answer, task.options
    read = None if options is None else _class_reader(reading, answer, options)

    def make(row: Row, place: str) -> Example:
        asked, said = rendered(prompt, row, place, "prompt"), rendered(answer, row, place, "answer")
        if options is None or read is None:
            return free(asked, "", said, place)
        label = read(said.strip())
        if label is None:
            raise ValueError(f"{place}: answer {said!r} is not among the options {', '.join(options)}")
        return worded(Choice(asked, options, label, place, joint=joint_of(asked)), task.formulation)

    return make


def _class_reader(reading: Reading, answer: str, options: tuple[str, ...]) -> ClassReader:
    """How the answers of all rows are meant; those that cannot be filled in are told of when examples are made."""

    def values() -> Iterator[str]:  # asked for only where options are numbers
        for place, row in (each for table in reading.tables for each in table.rows):
            with suppress(ValueError):
                yield rendered(answer, row, place, "answer").strip()

    return class_reader(options, values(), reading.task.labels)


TEMPLATE = Format((), lambda columns, row: False, _template_maker)
