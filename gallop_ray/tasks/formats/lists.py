"""Lists in cells: as they are, or as a CSV file has them, written as JSON or as Python writes them."""

import ast
from collections.abc import Mapping
from typing import Any

from gallop_ray.tasks.lines import loads


def as_list(value: Any) -> list[Any] | None:
    """The list that a cell holds; None where it holds none."""
    value = parsed(value)
    if isinstance(value, Mapping | str | bytes) or not hasattr(value, "__iter__"):
        return None
    return list(value)


def parsed(value: Any) -> Any:
    """What a text that is written like a list or a mapping holds; any other value as it is."""
    if not isinstance(value, str) or value.strip()[:1] not in ("[", "{", "("):
        return value
    for read in (loads, ast.literal_eval):
        try:
            return read(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return value
