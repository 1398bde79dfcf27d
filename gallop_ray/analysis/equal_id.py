"""Methods at equal ID: what each keeps of the other tasks where all have learnt as much; see docs/statistics.md.

A method that learns more forgets more, and its learning rate decides how much. So methods are compared along their
fronts of ID against OOD over all configurations of the search, and where all of them reach the same ID.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gallop_ray.analysis.answers import recorded, weighted, weights_of
from gallop_ray.analysis.comparison import Comparison, Side, compare, corrected
from gallop_ray.analysis.ranking import Summary, of_the_search, summaries, with_most_seeds
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import RunResult
from gallop_ray.spec.metrics import larger_is_better
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.metrics import base_metrics

_PAIRS = (("id_accuracy", "ood_accuracy"), ("id_loss", "ood_loss"))


@dataclass(frozen=True)
class Front:
    """A method's configurations that no other one of it beats in both, by ID from low to high.

    points: means over seeds as (ID, OOD), each counted so that more is better. The base model is the first, where it is
    on the front: it is where every method begins. configurations: None for the base model.
    """

    method: str
    points: tuple[tuple[float, float], ...]
    configurations: tuple[Summary | None, ...]

    @property
    def reach(self) -> float:
        """The highest ID."""
        return self.points[-1][0]

    def shares(self, learnt: float) -> dict[int, float]:
        """The two neighbours of an ID on the front, or one, by position, with their shares in the line between them."""
        if learnt <= self.points[0][0]:
            return {0: 1.0}
        for right, (one, other) in enumerate(pairwise(self.points), start=1):
            if learnt <= other[0]:
                share = (learnt - one[0]) / (other[0] - one[0])
                return {place: part for place, part in ((right - 1, 1 - share), (right, share)) if part}
        raise ValueError(f"{self.method} does not reach {learnt}")

    def at(self, learnt: float) -> float:
        """OOD at an ID, on the line between the neighbours."""
        return sum(share * self.points[place][1] for place, share in self.shares(learnt).items())

    def mean(self, low: float, high: float) -> float:
        """The mean OOD between two IDs: the area under the front there over its width."""
        if high <= low:
            return self.at(high)
        stops = [low, *(x for x, _ in self.points if low < x < high), high]
        areas = [(b - a) * (self.at(a) + self.at(b)) / 2 for a, b in pairwise(stops)]
        return sum(areas) / (high - low)


@dataclass(frozen=True)
class EqualId:
    """Methods where all reach the same ID.

    metrics: of ID and of OOD. learnt: that ID, the highest that all reach. since: the ID from which the areas count,
    the base model's or else the lowest of all. comparisons: OOD there of the first in `fronts` minus each other's.
    """

    metrics: tuple[str, str]
    learnt: float
    since: float
    fronts: tuple[Front, ...]
    comparisons: tuple[Comparison, ...]

    @cached_property
    def sign(self) -> int:
        """-1 for losses."""
        return 1 if larger_is_better(self.metrics[0]) else -1

    @property
    def id_value(self) -> float:
        """`learnt` as the metric has it."""
        return self.sign * self.learnt

    def kept(self, front: Front) -> float:
        """A method's OOD at this ID, as the metric has it."""
        return self.sign * front.at(self.learnt)

    def area(self, front: Front) -> float:
        """A method's mean OOD on the way there, as the metric has it."""
        return self.sign * front.mean(self.since, self.learnt)


def equal_id(folder: SweepFolder, sweep: Sweep, results: Sequence[RunResult]) -> EqualId | None:
    """From the runs of the search; None unless two methods have ID and OOD, and one of them tried several settings."""
    trained = {method.name for method in sweep.methods if method.trains}  # else all would be compared at the base's ID
    found = with_most_seeds(summaries(of_the_search(results), sweep.objective))
    tried = [each for each in found if each.finished and each.method in trained]
    base = base_metrics(measured, sweep.data) if (measured := folder.base()) else {}
    for metrics in _PAIRS:
        fronts = _fronts(tried, metrics, base)
        if len(fronts) < 2 or max(len(of_it) for of_it in _by_method(tried, metrics).values()) < 2:
            continue
        learnt = min(front.reach for front in fronts)
        begin = _point([base.get(name) for name in metrics], metrics)
        since = begin[0] if begin else min(front.points[0][0] for front in fronts)
        fronts.sort(key=lambda front: -front.at(learnt))
        sides = [_side(folder, sweep, front, learnt, metrics[1], base) for front in fronts]
        pairs = [compare(metrics[1], sides[0], side) for side in sides[1:]]
        return EqualId(metrics, learnt, min(since, learnt), tuple(fronts), tuple(corrected([p for p in pairs if p])))
    return None


def _by_method(tried: Sequence[Summary], metrics: tuple[str, str]) -> dict[str, list[Summary]]:
    found: dict[str, list[Summary]] = defaultdict(list)
    for each in tried:
        if _point([each.over_seeds(name)[0] for name in metrics], metrics):
            found[each.method].append(each)
    return found


def _point(values: Sequence[float | None], metrics: tuple[str, str]) -> tuple[float, float] | None:
    """The two values, turned so that more is better."""
    first, second = (
        None if value is None else value * (1 if larger_is_better(name) else -1)
        for value, name in zip(values, metrics, strict=True)
    )
    return None if first is None or second is None else (first, second)


def _fronts(tried: Sequence[Summary], metrics: tuple[str, str], base: Mapping[str, float | None]) -> list[Front]:
    found = []
    for method, of_it in _by_method(tried, metrics).items():
        every: list[tuple[tuple[float, float], Summary | None]] = []
        for each in (*of_it, None):
            values = [base.get(name) if each is None else each.over_seeds(name)[0] for name in metrics]
            if (point := _point(values, metrics)) is not None:
                every.append((point, each))
        kept: list[tuple[tuple[float, float], Summary | None]] = []
        for point, each in sorted(every, key=lambda one: (-one[0][0], -one[0][1])):
            if not kept or point[1] > kept[-1][0][1]:
                kept.append((point, each))
        kept.reverse()
        found.append(Front(method, tuple(point for point, _ in kept), tuple(each for _, each in kept)))
    return found


def _side(
    folder: SweepFolder, sweep: Sweep, front: Front, learnt: float, metric: str, base: Mapping[str, float | None]
) -> Side:
    """A method at an ID: its neighbours' values at each seed that they share, and their answers, mixed likewise."""
    parts = [(front.configurations[place], share) for place, share in front.shares(learnt).items()]
    made = [(each, share) for each, share in parts if each is not None]
    constant = sum(share * (base.get(metric) or 0.0) for each, share in parts if each is None)
    values = [
        {run.seed: value for run in each.finished if (value := run.value(metric)) is not None} for each, _ in made
    ]
    seeds = sorted(set.intersection(*map(set, values))) if values else []
    by_seed = {
        seed: constant + sum(share * of[seed] for (_, share), of in zip(made, values, strict=True)) for seed in seeds
    }
    answers = {} if constant else _answers(folder, sweep, made, seeds, metric)
    return Side(front.method, front.method, by_seed, answers)


def _answers(
    folder: SweepFolder, sweep: Sweep, made: Sequence[tuple[Summary, float]], seeds: Sequence[int], metric: str
) -> dict[int, dict[str, NDArray[np.float64]]]:
    weights = weights_of(folder, sweep, metric)
    found: dict[int, dict[str, NDArray[np.float64]]] = {}
    for seed in seeds:
        each = [weighted(recorded(folder.run(one.configuration, seed)), weights, metric) for one, _ in made]
        if all(each) and len({tuple((task, len(row)) for task, row in of.items()) for of in each}) == 1:
            found[seed] = {
                task: sum((share * of[task] for (_, share), of in zip(made, each, strict=True)), np.zeros(len(row)))
                for task, row in each[0].items()
            }
    return found
