"""Compares two configurations over common seeds and the same examples; definitions in docs/statistics.md."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from gallop_ray.tasks.metrics import task_of

LEVEL = 0.05
LEAST_SEEDS = 3
"""Fewer decide nothing: two that happen to agree make any t large, and show nothing about the distribution."""
TEST = "paired t-test over seeds"
_SMALLEST_P = 0.0  # a t-test has no lower bound; a sign-flip test of n seeds would end at 2 / 2^n
_LEAST_SHARE = 1e-3  # the seeds' share of a squared error, at least: at 10^6 degrees of freedom t is normal anyway
_NOTHING = 1e-12  # differences of accuracies closer than this are equal up to rounding

Examples = Mapping[str, NDArray[np.float64]]
"""By task, or `<task trained on>/<task>`, (seeds, examples): whether each answer is right, times the task's weight in
the metric."""


@dataclass(frozen=True)
class Comparison:
    """The first configuration minus the second, over the seeds that both finished.

    `low` to `high` is the 95 % interval of the difference, for new seeds and new examples of the same tasks.
    `effect_size` is Hedges' g of the paired differences, None without a spread or with two seeds. `p` is two-sided,
    `smallest_p` the least that the test can reach; `p_corrected` is Holm's over all pairs of the metric. `different`:
    p_corrected is below 0.05 and the interval excludes 0, with at least three seeds. `seed_error` and `example_error`
    are the parts of the standard error, `freedom` its degrees of freedom.
    """

    metric: str
    first: str
    second: str
    first_method: str
    second_method: str
    seeds: int
    difference: float
    low: float
    high: float
    effect_size: float | None
    test: str
    p: float | None
    smallest_p: float | None
    p_corrected: float | None
    different: bool
    seed_error: float
    example_error: float
    freedom: float

    @property
    def separated(self) -> bool:
        """As `different`, but by p without a correction: for a claim about this pair, or about the best of all."""
        below = self.p is not None and self.p < LEVEL
        return below and self.seeds >= LEAST_SEEDS and not self.low <= 0 <= self.high

    def interval(self, coverage: float) -> tuple[float, float]:
        """The interval of the difference for any coverage; never narrower than the t-test's."""
        upper, error = (1 + coverage) / 2, math.hypot(self.seed_error, self.example_error)
        # Examples add to the error, but also many degrees of freedom, which could make the interval narrower.
        by_seeds, by_both = stdtrit(self.seeds - 1, upper), stdtrit(self.freedom, upper)
        reach = max(float(by_seeds) * self.seed_error, float(by_both) * error)
        return self.difference - reach, self.difference + reach


@dataclass(frozen=True)
class Side:
    """One configuration in a comparison: its metric by seed, and its answers by seed where recorded."""

    configuration: str
    method: str
    by_seed: Mapping[int, float]
    examples: Mapping[int, Mapping[str, NDArray[np.float64]]]


def compare(metric: str, first: Side, second: Side) -> Comparison | None:
    """First minus second; None with fewer than two common seeds. `corrected` sets `different` and p_corrected."""
    seeds = sorted(first.by_seed.keys() & second.by_seed.keys())
    if len(seeds) < 2:
        return None
    differences = np.array([first.by_seed[seed] - second.by_seed[seed] for seed in seeds])
    difference, std = fmean(differences), _std(differences)
    answers = _differences(first, second, seeds)
    seed_error, example_error = standard_errors(differences, answers)
    found = Comparison(
        metric=metric,
        first=first.configuration,
        second=second.configuration,
        first_method=first.method,
        second_method=second.method,
        seeds=len(seeds),
        difference=difference,
        low=difference,
        high=difference,
        effect_size=_hedges(difference, std, len(seeds)),
        test=TEST,
        p=_p(difference, std, len(seeds), answers is not None),
        smallest_p=_SMALLEST_P,
        p_corrected=None,
        different=False,
        seed_error=seed_error,
        example_error=example_error,
        freedom=degrees_of_freedom(seed_error, example_error, len(seeds)),
    )
    low, high = found.interval(1 - LEVEL)
    return replace(found, low=low, high=high)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one metric with Holm's correction over them, and `different` accordingly."""
    adjusted = iter(holm([each.p for each in comparisons if each.p is not None]))
    found = [replace(each, p_corrected=None if each.p is None else next(adjusted)) for each in comparisons]
    return [replace(each, different=_is_different(each)) for each in found]


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for the family-wise error rate (Holm 1979)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def standard_errors(differences: NDArray[np.float64], answers: Examples | None) -> tuple[float, float]:
    """The standard error of the mean difference, as the parts due to seeds and to the test examples.

    Seeds and examples are crossed random effects, tasks are fixed. Their variance components come from the analysis of
    variance, truncated at zero (Cornfield and Tukey 1956). The first part is the t-test's, unless the seeds agree
    better than so few examples allow: then it is what the examples allow.

    Args:
        differences: (seeds,) of the metric.
        answers: by task (seeds, examples), differences of weighted answers; None leaves the examples out.
    """
    seeds = len(differences)
    by_seeds, by_both, by_examples = _std(differences) ** 2 / seeds, 0.0, 0.0
    for table in (answers or {}).values():
        examples = table.shape[1]
        if examples < 2:
            continue
        residuals = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        noise = float((residuals**2).sum()) / ((seeds - 1) * (examples - 1)) / (seeds * examples)
        by_both += noise
        by_examples += max(0.0, float(table.mean(0).var(ddof=1)) / examples - noise)
    return math.sqrt(max(by_seeds, by_both)), math.sqrt(by_examples)


def degrees_of_freedom(seed_error: float, example_error: float, seeds: int) -> float:
    """Satterthwaite's (1946), with many more examples than seeds: seeds - 1 where the error is due to seeds alone."""
    total = seed_error**2 + example_error**2
    share = seed_error**2 / total if total else 1.0
    return (seeds - 1) / max(share, _LEAST_SHARE) ** 2


def _is_different(comparison: Comparison) -> bool:
    return comparison.separated and comparison.p_corrected is not None and comparison.p_corrected < LEVEL


def _p(difference: float, std: float, seeds: int, has_examples: bool) -> float | None:
    """As scipy.stats.ttest_rel, which takes fifty times as long.

    If all seeds differ by the same amount, t is undefined. An amount of 0 means no difference. Any other is certain by
    the seeds alone, which counts only together with the interval over examples.
    """
    if std > _NOTHING:
        return 2 * float(stdtr(seeds - 1, -abs(difference) / std * math.sqrt(seeds)))
    if abs(difference) <= _NOTHING:
        return 1.0
    return 0.0 if has_examples else None


def _hedges(difference: float, std: float, seeds: int) -> float | None:
    """Mean over standard deviation of the differences, times Hedges' exact small-sample correction (1981)."""
    if seeds < 3 or std <= _NOTHING:
        return None
    half = (seeds - 1) / 2
    return math.exp(math.lgamma(half) - math.lgamma(half - 0.5)) / math.sqrt(half) * difference / std


def _std(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1))


def _differences(first: Side, second: Side, seeds: Sequence[int]) -> Examples | None:
    """Differences of the answers by task; None unless both sides recorded the same examples at all seeds.

    What several rounds reach on a task is added up: they meet the same examples, which must not count as so many more.
    """
    tables = [[side.examples.get(seed) for seed in seeds] for side in (first, second)]
    shapes = {tuple((t, len(a)) for t, a in each.items()) if each else () for table in tables for each in table}
    if len(shapes) != 1 or shapes == {()}:
        return None
    ours, theirs = tables
    found: dict[str, NDArray[np.float64]] = {}
    for name, _ in shapes.pop():
        table = np.stack([a[name] - b[name] for a, b in zip(ours, theirs, strict=True) if a and b])
        task = task_of(name)
        found[task] = found[task] + table if task in found else table
    return found
