"""Log ranges that grow threefold at an end (search.widen). What a range has become shows in what was tried."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal

from gallop_ray.spec.configuration import method_space
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.space import LogRange, Range

End = Literal["lowest", "highest"]
_WIDER = 3.0


def wider(allowed: LogRange, end: End) -> tuple[LogRange, LogRange]:
    """A range that has grown once more at an end, and the part by which it has."""
    low, high = allowed.log
    if end == "lowest":
        return LogRange(log=(low / _WIDER, high)), LogRange(log=(low / _WIDER, low))
    return LogRange(log=(low, high * _WIDER)), LogRange(log=(high, high * _WIDER))


def times_widened(given: LogRange, now: LogRange) -> int:
    """How often a range has grown, at both ends together."""
    return _growths(given.log[0], now.log[0]) + _growths(now.log[1], given.log[1])


def widened_space(sweep: Sweep, method_name: str, tried: Iterable[Mapping[str, object]]) -> dict[str, Range]:
    """`method_space`, its log ranges as wide as the values that were tried show that they have become.

    Also where search.widen has been lowered since.
    """
    space, seen = method_space(sweep, method_name), list(tried)
    return {path: _reaching(allowed, [each[path] for each in seen if path in each]) for path, allowed in space.items()}


def _reaching(allowed: Range, values: Iterable[object]) -> Range:
    if not isinstance(allowed, LogRange):
        return allowed
    low, high = allowed.log
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    below, above = _growths(low, min([low, *numbers])), _growths(max([high, *numbers]), high)
    return LogRange(log=(low / _WIDER**below, high * _WIDER**above))


def _growths(high: float, low: float) -> int:
    """How many threefold steps lead from one value to a lower one, or past it."""
    return max(0, math.ceil(math.log(high / low) / math.log(_WIDER) - 1e-6))
