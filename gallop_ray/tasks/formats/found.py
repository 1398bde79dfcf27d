"""Every format, and which one a task's rows are of."""

from collections.abc import Iterator, Sequence
from typing import Any

from gallop_ray.spec.plugins import installed, is_reference, load_installed, load_object
from gallop_ray.spec.problems import did_you_mean
from gallop_ray.spec.tasks import FORMAT_GROUP, TaskSpec
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.formats.choice import CHOICE
from gallop_ray.tasks.formats.classes import CLASSES
from gallop_ray.tasks.formats.contract import Format, Maker, Reading, with_row
from gallop_ray.tasks.formats.conversations import MESSAGES, SHAREGPT
from gallop_ray.tasks.formats.house import HOUSE
from gallop_ray.tasks.formats.pairs import ALPACA, PLAIN, PROMPT, TEMPLATE
from gallop_ray.tasks.lines import check_characters
from gallop_ray.tasks.sources.table import Placed, Row, Table, each_row

BUILT_IN = {
    "messages": MESSAGES,
    "sharegpt": SHAREGPT,
    "house": HOUSE,
    "alpaca": ALPACA,
    "choice": CHOICE,
    "prompt": PROMPT,
    "label": CLASSES,
    "text": PLAIN,
    "template": TEMPLATE,
}
"""In the order in which they are looked for: what says more comes first."""

_USED_BY = {
    "prompt": ("template", "choice", "label", "prompt", "alpaca"),
    "answer": ("template",),
    "options": ("template", "label"),
    "labels": ("choice", "label", "template"),
}


def format_of(task: TaskSpec, table: Table) -> tuple[str, Format]:
    """The format of a task, as it is named or found by its columns. Raises ValueError for columns of no format."""
    if task.format is not None:
        return task.format, _named(task.format)
    if task.prompt is not None and task.answer is not None:
        return "template", TEMPLATE
    place, row = table.rows[0]
    found = next((name for name, each in _all() if each.fits(list(row), row)), None)
    if found is None:
        raise ValueError(
            f"{place}: the columns {', '.join(row) or '(none)'} are of no known format ({', '.join(BUILT_IN)}); give "
            "`format` with `columns`, ours to yours, or `prompt` and `answer` as templates of them"
        )
    return found, _named(found)


def format_name(task: TaskSpec, table: Table) -> str:
    """The name of a task's format, by a table of it as it is read."""
    return format_of(task, _renamed(task, table))[0]


def maker_of(task: TaskSpec, tables: Sequence[Table]) -> Maker:
    """What makes an example of a row. Raises ValueError where no format takes the rows, or a column is not there."""
    tables = [_renamed(task, table) for table in tables]
    name, found = format_of(task, tables[0])
    _refuse_unused(task, name)
    _refuse_unknown(task, name, found)
    return found.maker(Reading(task, tables))


def _refuse_unused(task: TaskSpec, name: str) -> None:
    """Raises ValueError for a field that a built-in format does not look at."""
    for field, formats in _USED_BY.items():
        if getattr(task, field) is not None and name in BUILT_IN and name not in formats:
            raise ValueError(
                f"{task.source}: {field} is not for the format {name}, only for {', '.join(formats)}; leave it out, or "
                "give prompt and answer, two templates"
            )


def _refuse_unknown(task: TaskSpec, name: str, found: Format) -> None:
    """Raises ValueError for a column of ours that a built-in format does not look for, where no template does."""
    if name not in BUILT_IN or task.prompt is not None or task.answer is not None:
        return
    if unknown := next((ours for ours in task.columns if ours not in found.columns), None):
        hint = did_you_mean(unknown, found.columns)
        raise ValueError(
            f"{task.source}: columns names {unknown!r}, which the format {name} does not look for{hint}; it takes "
            f"{', '.join(found.columns[:8])}"
        )


def examples_of(task: TaskSpec, rows: list[Placed], make: Maker) -> list[Example]:
    """The examples of a split, all of one kind. Raises ValueError that names what cannot be used."""
    found: list[Example] = []

    def of_row(row: Row, place: str) -> Example:
        example = with_row(make(_mapped(task, row, place), place), row)
        _refuse_halves(example, place)
        if found and found[0].kind != example.kind:
            had, has = found[0].kind, example.kind
            raise ValueError(f"{place}: this row is of kind {has}, the first one of {had}; make two tasks of them")
        found.append(example)
        return example

    return each_row(rows, of_row)


def _named(name: str) -> Format:
    if name in BUILT_IN:
        return BUILT_IN[name]
    found: Any = load_object(name) if is_reference(name) else load_installed(FORMAT_GROUP, name)
    if not isinstance(found, Format):
        raise ValueError(f"{name} is {found!r:.60}, which is no gallop_ray.tasks.formats.contract.Format")
    return found


def _all() -> Iterator[tuple[str, Format]]:
    yield from BUILT_IN.items()
    for name in sorted(installed(FORMAT_GROUP)):
        yield name, _named(name)


def _renamed(task: TaskSpec, table: Table) -> Table:
    """The table with the columns called as the format calls them; rows that lack one are told of later."""
    if not task.columns:
        return table
    theirs = {value: key for key, value in task.columns.items()}
    names = {theirs.get(column, column): each for column, each in table.names.items()}
    place, first = table.rows[0]
    _mapped(task, first, place)
    rows = [(place, _map(task, row)) for place, row in table.rows]
    return Table(rows, names)


def _mapped(task: TaskSpec, row: Row, place: str) -> Row:
    for column in task.columns.values():
        if column not in row:
            raise ValueError(f"{place}: no column {column!r}; there are {', '.join(row)}{did_you_mean(column, row)}")
    return _map(task, row) if task.columns else row


def _map(task: TaskSpec, row: Row) -> Row:
    """What is mapped under our names, and nothing else under these; the other columns as they are."""
    mapped = {ours: row[theirs] for ours, theirs in task.columns.items() if theirs in row}
    rest = {key: value for key, value in row.items() if key not in mapped and key not in task.columns.values()}
    return {**mapped, **rest}


def _refuse_halves(example: Example, place: str) -> None:
    """Raises ValueError for half of a character anywhere in an example."""
    turns = "".join(f"{each.content}{each.more}" for each in example.messages)
    for field, text in (
        ("the question", f"{example.instruction}{example.input}"),
        ("the answer", "".join((*example.options, *example.references))),
        ("the conversation", f"{turns}{example.tools}"),
    ):
        check_characters(text, field, place)
