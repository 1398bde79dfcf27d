"""Points of a search space that do not depend on results: those to try first, random ones, those of a grid."""

import hashlib
import json
import math
import random
from collections.abc import Mapping

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from gallop_ray.spec.space import ChoiceRange, IntegerRange, LogRange, Range, extremes, points

Space = Mapping[str, Range]
Values = dict[str, object]


def seed_from(*parts: object) -> int:
    """A 32-bit seed determined by these parts, the same in every process."""
    # Not hash(), which is salted per process.
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:4])


def random_point(space: Space, *seed: object) -> Values:
    """One point, uniform over each range (logarithmically for a LogRange).

    Each path has its own generator, so that two methods that search a path over the same range draw the same values for
    it, whatever else they search.
    """
    return {path: _draw(allowed, random.Random(seed_from(*seed, path))) for path, allowed in space.items()}


def _draw(allowed: Range, draws: random.Random) -> object:
    if (every := points(allowed)) is not None:
        return every[draws.randrange(len(every))]
    low, high = (float(str(end)) for end in extremes(allowed))
    if isinstance(allowed, LogRange):
        return min(high, max(low, math.exp(draws.uniform(math.log(low), math.log(high)))))
    return draws.uniform(low, high)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna's distributions."""
    return {path: _distribution(allowed) for path, allowed in space.items()}


def _distribution(allowed: Range) -> BaseDistribution:
    if isinstance(allowed, ChoiceRange):
        # As JSON: Optuna's categories must be plain values, ours may be lists or mappings.
        return CategoricalDistribution([_as_json(choice) for choice in allowed.choice])
    if isinstance(allowed, IntegerRange):
        return IntDistribution(*allowed.integer)
    if isinstance(allowed, LogRange):
        return FloatDistribution(*allowed.log, log=True)
    return FloatDistribution(*allowed.linear)


def to_params(space: Space, values: Mapping[str, object]) -> dict[str, object]:
    """A point's values as Optuna's parameters."""
    return {path: _param(space[path], value) for path, value in values.items()}


def _param(allowed: Range, value: object) -> object:
    if isinstance(allowed, ChoiceRange):
        return _as_json(allowed.choice[allowed.choice.index(value)])
    return int(value) if isinstance(allowed, IntegerRange) else float(str(value))  # type: ignore[call-overload]


def to_values(params: Mapping[str, object]) -> Values:
    """A point's values from Optuna's parameters."""
    return {path: json.loads(param) if isinstance(param, str) else param for path, param in params.items()}


def _as_json(choice: object) -> str:
    return json.dumps(choice, sort_keys=True)
