"""The spread of a metric over the seeds of one configuration; definitions in docs/statistics.md."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from gallop_ray.records.summary import mean_and_std
from gallop_ray.spec.metrics import larger_is_better

COVERAGE = 0.95
_SEEDS_FOR_AN_INTERVAL = 3
_ALL_RESAMPLES_UP_TO = 5  # 5^5 = 3125
_RESAMPLES = 4000


@dataclass(frozen=True)
class Spread:
    """One metric over the seeds of one configuration.

    `std` (n - 1) and `standard_error` are None with one seed; `low` to `high`, the bootstrap 95 % interval of the mean,
    with fewer than three. `worst` is None where neither direction is better.
    """

    n: int
    mean: float | None
    std: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    worst: float | None
    worst_seed: int | None


def spread(metric: str, by_seed: Mapping[int, float | None]) -> Spread:
    """The spread of a metric's values, without missing ones."""
    known = {seed: value for seed, value in sorted(by_seed.items()) if value is not None}
    values = list(known.values())
    mean, std = mean_and_std(values)
    error = None if std is None else std / math.sqrt(len(values))
    low, high = bootstrap_interval(values)
    seed = _worst_seed(metric, known)
    worst = None if seed is None else known[seed]
    return Spread(len(values), mean, std, error, low, high, worst, seed)


def bootstrap_interval(values: list[float]) -> tuple[float | None, float | None]:
    """The percentile bootstrap's 95 % interval of the mean, widened for few values; Nones with fewer than three.

    The bootstrap treats the n values as the population, so its spread is too small by sqrt((n - 1) / n), and it has a
    normal distribution's tails instead of Student's (Hesterberg 2015, The American Statistician 69:371). Both limits'
    distances from the mean are multiplied by the missing factor.
    """
    n = len(values)
    if n < _SEEDS_FOR_AN_INTERVAL:
        return None, None
    mean = math.fsum(values) / n
    means = _resamples(n) @ (np.asarray(values) - mean)
    low, high = np.quantile(means, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], method="inverted_cdf")
    return mean + widening(n) * float(low), mean + widening(n) * float(high)


@cache
def widening(n: int) -> float:
    """The factor by which a percentile bootstrap of n values is too narrow."""
    upper = (1 + COVERAGE) / 2
    return math.sqrt(n / (n - 1)) * float(stdtrit(n - 1, upper)) / NormalDist().inv_cdf(upper)


@cache
def _resamples(n: int) -> NDArray[np.float64]:
    """The share of each value in each resample, (resamples, n): all possible ones, or a seeded draw."""
    if n <= _ALL_RESAMPLES_UP_TO:
        drawn = np.array(list(product(range(n), repeat=n)))
    else:
        drawn = np.random.default_rng(0).integers(n, size=(_RESAMPLES, n))
    return np.stack([(drawn == value).sum(1) for value in range(n)], axis=1) / n


def _worst_seed(metric: str, by_seed: Mapping[int, float]) -> int | None:
    better = larger_is_better(metric)
    if better is None or not by_seed:
        return None
    return (min if better else max)(by_seed, key=lambda seed: by_seed[seed])
