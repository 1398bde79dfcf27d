"""What a format is, and what it may know of a task."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gallop_ray.spec.problems import did_you_mean
from gallop_ray.spec.tasks import TaskSpec
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.lines import check_characters
from gallop_ray.tasks.sources.table import Row, Table

Maker = Callable[[Row, str], Example]
"""Makes the example of a row, which stands at a place. Raises ValueError that begins with the place."""


@dataclass(frozen=True)
class Reading:
    """A task, and the tables of all its splits, with the columns called as the format calls them."""

    task: TaskSpec
    tables: Sequence[Table]

    def values(self, column: str) -> list[Any]:
        """What stands in a column, in all rows that have it."""
        return [row[column] for table in self.tables for _, row in table.rows if column in row]

    def names(self, column: str) -> tuple[str, ...]:
        """What the classes of a column of numbers are called; empty where nothing says it."""
        return next((table.names[column] for table in self.tables if column in table.names), ())


@dataclass(frozen=True)
class Format:
    """A format: which columns it takes, whether a first row is of it, and what makes examples."""

    columns: tuple[str, ...]
    """Those that it looks for, under the names by which `columns` maps them."""
    fits: Callable[[Collection[str], Row], bool]
    maker: Callable[[Reading], Maker]


def with_row(example: Example, row: Row) -> Example:
    """The example with its row as it was read."""
    return replace(example, row=json.dumps(row, ensure_ascii=False, sort_keys=True, default=str))


def text_of(row: Row, column: str, place: str, optional: bool = False) -> str:
    """A text of a row, numbers as they are written. Raises ValueError where there is none."""
    value = row.get(column)
    if value is None and optional:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        other = f"is {type(value).__name__}, not text; write it as text, or give prompt and answer, two templates"
        have = other if value is not None else missing(row, column)
        raise ValueError(f"{place}: {column} {have}")
    if not value.strip() and not optional:
        raise ValueError(f"{place}: {column} is empty; write it, or take the row out")
    check_characters(value, column, place)
    return value


def refuse_unused(reading: Reading, row: Row, columns: Collection[str], used: str, place: str) -> None:
    """Raises ValueError for a column that belongs to the question, as its name says, where another alone is taken.

    A task that names its format, or words the question itself, takes what it says.
    """
    if reading.task.format is not None or reading.task.prompt is not None:
        return
    if unused := next((name for name in columns if name != used and row.get(name) not in (None, "", [])), None):
        wording = f"prompt: '{{{{ {unused} }}}} {{{{ {used} }}}}'"
        raise ValueError(
            f"{place}: {unused} would not be used beside {used}; give {wording}, or `format` to leave it out"
        )


def missing(row: Row, column: str) -> str:
    """What is said of a column that a row does not have, or that is null there."""
    if column in row:
        return "is null; write it, or take the row out"
    return f"is missing; there are {', '.join(row) or 'none'}{did_you_mean(column, row)}; name it in `columns`"
