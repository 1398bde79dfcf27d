"""Rows with their places, and what one may be told of those that cannot be used."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

Row = dict[str, Any]
Placed = tuple[str, Row]
"""Where a row stands, as messages name it (`file:line`, or `file, row 3`), and the row."""
T = TypeVar("T")
Raw = TypeVar("Raw")
_TOLD = 5  # rows that cannot be used, at most


@dataclass(frozen=True)
class Table:
    """The rows of one split. names: of columns that hold numbers of classes, what the classes are called."""

    rows: list[Placed]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """The columns of the first row; rows of JSONL need not have the same ones."""
        return list(self.rows[0][1]) if self.rows else []


def each_row(rows: Iterable[tuple[str, Raw]], make: Callable[[Raw, str], T]) -> list[T]:
    """What is made of every row; ValueError names the first rows that cannot be used, and how many more there are."""
    found: list[T] = []
    wrong: list[str] = []
    for place, row in rows:
        try:
            found.append(make(row, place))
        except ValueError as error:
            wrong.append(str(error))
    refuse(wrong)
    return found


def refuse(wrong: list[str]) -> None:
    """Raises ValueError with a line for each of the first, and how many more there are; nothing for none."""
    if wrong:
        more = [f"and {len(wrong) - _TOLD} lines more"] if len(wrong) > _TOLD else []
        raise ValueError("\n".join([*wrong[:_TOLD], *more]))
