"""NOMAD's mesh adaptive direct search (MADS) as a sampler, by which arXiv 2312.00949 tunes fine-tuning."""

import importlib
from collections.abc import Mapping, Sequence
from math import exp, log
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

_DIGITS = 9  # by which points are told apart
Point = tuple[float, ...]


class NomadSampler(optuna.samplers.BaseSampler):
    """Asks NOMAD, on the unit cube, what it would evaluate next.

    It keeps no state: each time the search begins again at the best point so far and is told what is known, until it
    wants a point that is not. Points that are being evaluated count as bad as the worst, those that failed as well.
    What has no order (choices) is drawn at random. One objective.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._search, self._seed = importlib.import_module("PyNomad"), seed or 0
        self._random = optuna.samplers.RandomSampler(seed=seed)
        self._space = optuna.search_space.IntersectionSearchSpace()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What has an order, and more than one value."""
        space = self._space.calculate(study)
        return {
            name: each
            for name, each in sorted(space.items())
            if not isinstance(each, CategoricalDistribution) and not each.single()
        }

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next point of the search; none where it wants none that is new."""
        known = _known(study, trial, search_space)
        if not known or not search_space:
            return {}
        found = self._next(known, list(search_space.values()))
        return {} if found is None else dict(zip(search_space, found, strict=True))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """At random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Of what is drawn at random."""
        self._random.reseed_rng()

    def _next(self, known: Mapping[Point, float], kinds: Sequence[BaseDistribution]) -> list[Any] | None:
        worst, wanted = max(known.values()), list[list[Any]]()

        def evaluate(point: Any) -> int:
            values = [_from_unit(point.get_coord(i), kind) for i, kind in enumerate(kinds)]
            value = known.get(_rounded(values, kinds))
            if value is None:
                wanted.append(values)
            point.setBBO(str(worst if value is None else value).encode())
            return 1

        begin = min(known, key=known.__getitem__)
        self._search.resetRandomNumberGenerator()
        options = [
            "BB_OUTPUT_TYPE OBJ",
            f"MAX_BB_EVAL {len(known) + 1}",
            "DISPLAY_DEGREE 0",
            f"SEED {self._seed % 2**31}",
        ]
        self._search.optimize(evaluate, list(begin), [0.0] * len(kinds), [1.0] * len(kinds), options)
        return wanted[0] if wanted else None


def _known(study: optuna.Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> dict[Point, float]:
    """The value to make small of each point that was begun."""
    sign = -1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1.0
    kinds, values, bad = list(space.values()), dict[Point, float](), list[Point]()
    for each in study.get_trials(deepcopy=False):
        if each.number == trial.number or not all(name in each.params for name in space):
            continue
        point = _rounded([each.params[name] for name in space], kinds)
        if each.state == TrialState.COMPLETE and each.value is not None:
            values[point] = min(sign * each.value, values.get(point, float("inf")))
        else:
            bad.append(point)
    if values:
        worst = max(values.values())
        values |= {point: worst for point in bad if point not in values}
    return values


def _rounded(values: Sequence[Any], kinds: Sequence[BaseDistribution]) -> Point:
    return tuple(round(_to_unit(float(value), kind), _DIGITS) for value, kind in zip(values, kinds, strict=True))


def _ends(kind: BaseDistribution) -> tuple[float, float, bool]:
    assert isinstance(kind, FloatDistribution | IntDistribution)
    return (log(kind.low), log(kind.high), True) if kind.log else (float(kind.low), float(kind.high), False)


def _to_unit(value: float, kind: BaseDistribution) -> float:
    low, high, logarithmic = _ends(kind)
    return min(1.0, max(0.0, ((log(value) if logarithmic else value) - low) / (high - low)))


def _from_unit(share: float, kind: BaseDistribution) -> Any:
    """A value of the distribution; of whole numbers the nearest."""
    low, high, logarithmic = _ends(kind)
    value = low + min(1.0, max(0.0, share)) * (high - low)
    value = exp(value) if logarithmic else value
    if isinstance(kind, IntDistribution):
        return int(min(kind.high, max(kind.low, kind.low + round((value - kind.low) / kind.step) * kind.step)))
    assert isinstance(kind, FloatDistribution)
    return min(kind.high, max(kind.low, value))
