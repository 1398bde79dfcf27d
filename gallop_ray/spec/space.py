"""The ranges of a search space, as a user writes them. Pure data: how to sample them is the sampler's business."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from gallop_ray.spec.frozen import Frozen

FORMS = "{log: [low, high]}, {linear: [low, high]}, {integer: [low, high]} or {choice: [a, b, ...]}"
End = TypeVar("End", float, int)


def _two_ends(value: object) -> object:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("must be two numbers, [low, high]")
    return value


def _low_below_high(ends: tuple[End, End]) -> tuple[End, End]:
    if not ends[0] < ends[1]:
        raise ValueError("the low end must be below the high end")
    return ends


def _positive(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] <= 0:
        raise ValueError("both ends of a log range must be greater than 0")
    return ends


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("must hold at least one value")
    repeated = [value for place, value in enumerate(values) if value in values[:place]]
    if repeated:
        raise ValueError(f"the values must differ, but {repeated[0]} is there twice")
    return values


_Real = Annotated[float, Field(strict=True)]
_Whole = Annotated[int, Field(strict=True)]
_RealEnds = Annotated[tuple[_Real, _Real], BeforeValidator(_two_ends), AfterValidator(_low_below_high)]
_WholeEnds = Annotated[tuple[_Whole, _Whole], BeforeValidator(_two_ends), AfterValidator(_low_below_high)]


class LogRange(Frozen):
    """Real numbers between two ends, both included, evenly spread in their logarithm."""

    log: Annotated[_RealEnds, AfterValidator(_positive)] = Field(description="[low, high], both greater than 0")


class LinearRange(Frozen):
    """Real numbers between two ends, both included, evenly spread."""

    linear: _RealEnds = Field(description="[low, high]")


class IntegerRange(Frozen):
    """Whole numbers between two ends, both included."""

    integer: _WholeEnds = Field(description="[low, high]")


class ChoiceRange(Frozen):
    """One of the listed values, each as it would be written for the field itself."""

    choice: Annotated[tuple[Any, ...], AfterValidator(_distinct)] = Field(
        description="the values, all different", json_schema_extra={"minItems": 1, "uniqueItems": True}
    )


_KINDS = ("log", "linear", "integer", "choice")


def _kind(value: object) -> str | None:
    keys = list(value) if isinstance(value, Mapping) else [kind for kind in _KINDS if hasattr(value, kind)]
    return keys[0] if len(keys) == 1 and keys[0] in _KINDS else None


Range = Annotated[
    Annotated[LogRange, Tag("log")]
    | Annotated[LinearRange, Tag("linear")]
    | Annotated[IntegerRange, Tag("integer")]
    | Annotated[ChoiceRange, Tag("choice")],
    Discriminator(_kind, custom_error_type="range_form", custom_error_message=f"must be one of {FORMS}"),
]


def extremes(values: Range) -> tuple[object, ...]:
    """Values that stand for the whole range when a field's limits are checked: its ends, or every choice."""
    match values:
        case LogRange(log=ends) | LinearRange(linear=ends):
            return ends
        case IntegerRange(integer=whole):
            return whole
        case ChoiceRange(choice=choices):
            return choices


def points(values: Range) -> tuple[object, ...] | range | None:
    """Every value of the range in order, or None where there are more than can be counted."""
    match values:
        case IntegerRange(integer=(low, high)):
            return range(low, high + 1)
        case ChoiceRange(choice=choices):
            return choices
        case _:
            return None


def grid_size(space: Mapping[str, Range]) -> int | None:
    """The number of points of a search space; None where a range has no points to count."""
    counts = [_count(allowed) for allowed in space.values()]
    return None if None in counts else math.prod(count for count in counts if count is not None)


def _count(values: Range) -> int | None:
    if isinstance(values, IntegerRange):  # of which there may be more than len() can say
        return values.integer[1] - values.integer[0] + 1
    every = points(values)
    return None if every is None else len(every)


def grid_point(space: Mapping[str, Range], number: int) -> dict[str, object]:
    """The points of a finite space by number, from 0; the last path changes fastest."""
    values: dict[str, object] = {}
    for path, allowed in reversed(list(space.items())):
        every, count = points(allowed), _count(allowed)
        assert every is not None, f"{path} has no points to count"
        assert count is not None
        number, place = divmod(number, count)
        values[path] = every[place]
    return {path: values[path] for path in space}


def holds(values: Range, value: object) -> bool:
    """Whether a value is in the range."""
    if isinstance(values, ChoiceRange):
        return value in values.choice
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = extremes(values)
    # A field of floats gives 2.0 for the 2 of a range of integers.
    return low <= value <= high and (value == int(value) or not isinstance(values, IntegerRange))  # type: ignore[operator]
