"""What a measure says of each example of a split, as correct.json holds it: digits, or a number for each example."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

Values = str | Sequence[float]
"""In the split's order: a text of 1 (right) and 0 (wrong), or numbers."""
_DIGITS = 6  # that are kept of a number: a loss in float32 has hardly more


def packed(values: Sequence[float]) -> Values:
    """Values as they are kept: digits where all are 0 or 1, else the numbers, rounded."""
    if all(value in (0, 1) for value in values):
        return "".join(str(int(value)) for value in values)
    return [float(f"{value:.{_DIGITS}g}") for value in values]


def numbers(values: Values) -> list[float]:
    """The values as numbers, one for each example."""
    return [float(value) for value in values]


def mean(values: Values) -> float:
    """Their mean: of digits the share of ones."""
    if isinstance(values, str):
        return values.count("1") / len(values)
    return sum(values) / len(values)


def are_values(found: Any) -> bool:
    """Whether this, read from a file, can be the values of a split."""
    if isinstance(found, str):
        return set(found) <= set("01")
    return isinstance(found, list) and all(
        isinstance(each, int | float) and not isinstance(each, bool) and isfinite(each) for each in found
    )
