"""Free text: a prompt and its completion under the names that people give them, Alpaca, plain text, own templates."""

from collections.abc import Collection

from gallop_ray.tasks.examples import Example, Message, free
from gallop_ray.tasks.formats.choice import class_index
from gallop_ray.tasks.formats.contract import Format, Maker, Reading, text_of
from gallop_ray.tasks.formats.conversations import prompt_and_completion
from gallop_ray.tasks.formats.lists import as_list
from gallop_ray.tasks.formats.templates import rendered
from gallop_ray.tasks.formats.wording import Choice, worded
from gallop_ray.tasks.sources.table import Row

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

    def make(row: Row, place: str) -> Example:
        several = _texts(row, said)
        if several is None and (found := prompt_and_completion(row, asked, said, place)) is not None:
            return found
        prompt = _asked(reading, row, asked, place)
        completion, *references = several or (text_of(row, said, place),)
        references += _texts(row, "references") or ()
        if (system := text_of(row, "system", place, optional=True)).strip():
            return _with_system(system, prompt, completion, place)
        return Example(prompt, "", (completion,), (), 0, joint=joint, references=tuple(references), place=place)

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


def _meet(row: Row) -> bool:
    prompt, completion = row.get("prompt"), row.get("completion")
    if not isinstance(prompt, str) or not isinstance(completion, str):
        return False
    return prompt[-1:].isspace() or completion[:1].isspace()


def _with_system(system: str, prompt: str, answer: str, place: str) -> Example:
    turns = (Message("system", system), Message("user", prompt), Message("assistant", answer))
    return Example("", "", (answer,), (), 0, messages=turns, place=place)


PROMPT = Format(("prompt", "completion", "system"), _is_pair, _pair_maker)


def _is_alpaca(columns: Collection[str], row: Row) -> bool:
    return {"instruction", "output"} <= set(columns) or {"instruction", "response"} <= set(columns)


def _alpaca_maker(reading: Reading) -> Maker:
    def make(row: Row, place: str) -> Example:
        instruction = _asked(reading, row, "instruction", place)
        said = "response" if "response" in row and "output" not in row else "output"
        context = next((name for name in ("input", "context") if name in row), "input")
        text = text_of(row, context, place, optional=True) if reading.task.prompt is None else ""
        answer = text_of(row, said, place)
        if (system := text_of(row, "system", place, optional=True)).strip():
            return _with_system(system, "\n".join(filter(None, (instruction, text))), answer, place)
        return free(instruction, text, answer, place)

    return make


ALPACA = Format(("instruction", "input", "output", "system"), _is_alpaca, _alpaca_maker)


def _is_plain(columns: Collection[str], row: Row) -> bool:
    return "text" in columns


def _plain_maker(reading: Reading) -> Maker:
    return lambda row, place: free("", "", text_of(row, "text", place), place)


PLAIN = Format(("text",), _is_plain, _plain_maker)


def _template_maker(reading: Reading) -> Maker:
    task = reading.task
    if task.prompt is None or task.answer is None:
        raise ValueError("format template needs prompt and answer, two Jinja templates of the rows' columns")
    prompt, answer, options = task.prompt, task.answer, task.options

    def make(row: Row, place: str) -> Example:
        asked, said = rendered(prompt, row, place, "prompt"), rendered(answer, row, place, "answer")
        if options is None:
            return free(asked, "", said, place)
        label = class_index(said.strip(), options)
        if label is None:
            raise ValueError(f"{place}: answer {said!r} is not among the options {', '.join(options)}")
        return worded(Choice(asked, options, label, place), task.formulation)

    return make


TEMPLATE = Format((), lambda columns, row: False, _template_maker)
