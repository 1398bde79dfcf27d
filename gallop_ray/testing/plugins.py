"""The contracts of metrics and samplers that a sweep file names."""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import optuna

from gallop_ray.search.samplers import make_sampler
from gallop_ray.spec.metrics import Scores, named
from gallop_ray.spec.search import SearchSpec

_SHARES = (None, 0.0, 0.25, 1.0)
_SPACE: Mapping[str, optuna.distributions.BaseDistribution] = {
    "rate": optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True),
    "ratio": optuna.distributions.FloatDistribution(0.0, 1.0),
    "rank": optuna.distributions.IntDistribution(1, 64),
    "scope": optuna.distributions.CategoricalDistribution(("global", "per_matrix")),
}


def check_metric(name: str) -> None:
    """Check that a metric is fit for tables and the search. Raises AssertionError, or ValueError for its name.

    For any measurements, missing ones (None) included, it must return a finite number within its bounds or None, and
    the same each time.

    Args:
        name: as in evaluation.metrics: a name that a package offers, or `module:object`.
    """
    metric = named(name)
    low, high = metric.bounds or (-math.inf, math.inf)
    others: list[dict[str, float | None]] = [{}, {"a": None}]
    others += [{"a": a, "b": b} for a, b in product(_SHARES, _SHARES)]
    each = [Scores(mine, ood) for mine, ood in product(_SHARES, others)]
    for tuned, base in product(each, each):
        value = metric.value(tuned, base)
        assert value is None or math.isfinite(value), f"{name} is {value!r} of {tuned} and {base}"
        assert value is None or low <= value <= high, f"{name} is {value!r}, outside of its bounds {metric.bounds}"
        assert value == metric.value(tuned, base), f"{name} differs when it is asked twice"


def check_sampler(name: str, options: Mapping[str, Any] | None = None, *, points: int = 20) -> None:
    """Check that a sampler is fit for the search. Raises AssertionError, or ValueError for its name.

    It must suggest points within the ranges, of numbers and of choices, before and after it gets results and failures;
    with the same seed and the same results the same points, so that a sweep can be repeated.

    Args:
        name: as in search.sampler: a class of Optuna's, or `module:Class`.
        options: its arguments.
        points: how many are drawn, twice.
    """
    search = SearchSpec(sampler=name, sampler_options=dict(options or {}))
    first, again = (_points(search, points) for _ in range(2))
    assert first == again, f"{name} gives other points when a search is repeated with its seed"


def _points(search: SearchSpec, count: int) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=make_sampler(search, count, 0, 0), direction="maximize")
    found = []
    for number in range(count):
        trial = study.ask(dict(_SPACE))
        for path, distribution in _SPACE.items():
            value = trial.params[path]
            assert _inside(value, distribution), f"{search.sampler} gives {value!r} for {path}, not in {distribution}"
        found.append(dict(trial.params))
        if number % 5 == 4:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, trial.params["ratio"] - trial.params["rank"] / 64)
    return found


def _inside(value: Any, distribution: optuna.distributions.BaseDistribution) -> bool:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution)
    return bool(distribution.low <= value <= distribution.high)
