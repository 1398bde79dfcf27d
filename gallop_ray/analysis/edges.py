"""Whether a best value lies at an edge of what was tried: then a better one may lie beyond."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from gallop_ray.analysis.ranking import Summary
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import StoredConfiguration
from gallop_ray.spec.configuration import method_named, resolve, space_keys
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.space import ChoiceRange, IntegerRange, LogRange, Range, extremes
from gallop_ray.spec.widening import End, widened_space

OUTERMOST = 0.1
"""The share at either end of a range (of its logarithm, in a log range) that counts as the edge."""


@dataclass(frozen=True)
class Edge:
    """A searched value of a configuration at an edge. `key`: in the sweep's search space; `tried`: its range there."""

    method: str
    key: str
    value: object
    end: End
    tried: str

    def __str__(self) -> str:
        field = self.key.rpartition(".")[2]
        return (
            f"{self.method}'s {field} {_shown(self.value)} is at the {self.end} end of {self.tried}; widen {self.key}"
        )


def edges(sweep: Sweep, configuration: StoredConfiguration, tried: Sequence[StoredConfiguration] = ()) -> list[Edge]:
    """The searched numbers of a configuration that lie at an edge of their range.

    tried: all configurations of its method, by which a range may have grown.

    Left out are ends beyond which the field allows no value, such as a selection ratio of 1, and values without order.
    In a list of two values both are edges.
    """
    method = method_named(sweep, configuration.method["name"])
    found, keys = [], space_keys(sweep, method)
    space = widened_space(sweep, method.name, [{path: each.option(path) for path in keys} for each in tried])
    for path, key in keys.items():
        allowed, value = space[path], configuration.option(path)
        end = end_of(allowed, value)
        if end is not None and _goes_on(sweep, method.name, path, allowed, end):
            found.append(Edge(method.name, key, value, end, _written(allowed)))
    return found


def end_of(allowed: Range, value: object) -> End | None:
    """The end of a range at which a value lies; None inside the range, and for values without order."""
    number, numbers = _number(value), [_number(each) for each in extremes(allowed)]
    known = sorted(each for each in numbers if each is not None)
    if number is None or len(known) < len(numbers) or len(known) < 2:
        return None
    if isinstance(allowed, ChoiceRange):
        return "lowest" if number <= known[0] else "highest" if number >= known[-1] else None
    scale = math.log if isinstance(allowed, LogRange) else float
    low, high = (scale(each) for each in known)
    share = (scale(number) - low) / (high - low)
    return "lowest" if share <= OUTERMOST else "highest" if share >= 1 - OUTERMOST else None


def two_values(allowed: Range) -> bool:
    """Whether a range has just two numbers, of which the best is always at an edge."""
    values = extremes(allowed)
    few = len(values) == 2 if isinstance(allowed, ChoiceRange) else _adjacent(allowed)
    return few and all(_number(each) is not None for each in values)


def _adjacent(allowed: Range) -> bool:
    return isinstance(allowed, IntegerRange) and allowed.integer[1] - allowed.integer[0] == 1


def _number(value: object) -> float | None:
    """A value as a number; a density given as a LoRA rank counts by the rank."""
    if isinstance(value, Mapping) and set(value) == {"lora_rank"}:
        value = value["lora_rank"]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _goes_on(sweep: Sweep, method: str, path: str, allowed: Range, end: End) -> bool:
    """Whether the field allows values beyond this end of the range."""
    values = sorted(extremes(allowed), key=lambda each: _number(each) or 0.0)
    last = values[0] if end == "lowest" else values[-1]
    try:
        resolve(sweep, method, {path: _next(last, -1 if end == "lowest" else 1)})
    except ValidationError:
        return False
    return True


def _next(value: Any, step: int) -> object:
    if isinstance(value, Mapping):
        return {"lora_rank": value["lora_rank"] + step}
    return value + step if isinstance(value, int) else math.nextafter(value, step * math.inf)


def _written(allowed: Range) -> str:
    """`{log: [0.0001, 0.01]}`, as in a sweep file."""
    ((kind, values),) = allowed.model_dump(mode="json").items()
    return f"{{{kind}: [{', '.join(map(_shown, _cut(values)))}]}}"


def _cut(values: Sequence[object]) -> Sequence[object]:
    return values if len(values) <= 6 else [*values[:2], "...", *values[-2:]]


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return f"{{lora_rank: {value['lora_rank']}}}" if "lora_rank" in value else json.dumps(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


MARK = "^"
"""Marks the name of a method whose best configuration is at an edge."""


def edges_of(folder: SweepFolder, sweep: Sweep, best: Iterable[Summary]) -> dict[str, list[Edge]]:
    """The edges of each best configuration that has any, by its key.

    Empty for a Pareto front, whose ends naturally lie at the ends of what was tried.
    """
    if sweep.objective.metrics:
        return {}
    known = {}
    for each in best:
        others = folder.configurations() if sweep.search.widen else []
        tried = [other.configuration() for other in others if other.method == each.method]
        known[each.configuration] = edges(sweep, folder.configuration(each.configuration).configuration(), tried)
    return {key: found for key, found in known.items() if found}
