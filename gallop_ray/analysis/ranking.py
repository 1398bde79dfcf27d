"""Which configuration is best: results of runs, grouped by configuration and method.

The only place that decides it: tables, report, display, MLflow, confirmation and retention all call `best`, for the
search alone `best_of_search`, or for both `worth_keeping`. A configuration with a failed or diverged run is never
chosen.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from gallop_ray.disk.bucket.tree import is_there
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import CONFIRMATION, EndedRun
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.records.summary import mean_and_std, objective_value
from gallop_ray.spec.metrics import maximized
from gallop_ray.spec.search import ObjectiveSpec

BASE = "base model"
Run = TypeVar("Run", bound=EndedRun)


@dataclass(frozen=True)
class Summary:
    """The runs of one configuration.

    `values`: the objective's metrics over its seeds, None without a finished seed. `on_front`: with several metrics, no
    other configuration is at least as good by all of them and better by one.
    """

    configuration: str
    method: str
    runs: list[EndedRun]
    values: tuple[float | None, ...]
    on_front: bool = False

    @property
    def finished(self) -> list[EndedRun]:
        """The runs that neither failed nor diverged."""
        return [run for run in self.runs if run.finished]

    @property
    def failed(self) -> bool:
        """Whether one of its runs failed or diverged: then it is not eligible, however good its other seeds are."""
        return any(run.failed for run in self.runs)

    def first(self, name: str) -> float | None:
        """A number that all runs share, or None."""
        return next((value for run in self.runs if (value := run.value(name)) is not None), None)

    def over_seeds(self, name: str) -> tuple[float | None, float | None]:
        """Mean and standard deviation of a metric."""
        return mean_and_std(run.value(name) for run in self.finished)


def summaries(results: Iterable[EndedRun], objective: ObjectiveSpec) -> list[Summary]:
    """One summary per configuration, the best by the objective first; those that failed or have no value come last.

    With several metrics the Pareto front comes first; inside and outside of it the first metric decides.
    """
    runs: dict[str, list[EndedRun]] = defaultdict(list)
    for result in results:
        runs[result.configuration].append(result)
    # By key first: equal values then rank the same wherever and whenever the folder is read.
    found = [_summary(key, of_key, objective) for key, of_key in sorted(runs.items())]
    if objective.metrics:
        found = _with_front(found, objective)
    return sorted(found, key=lambda summary: _order(summary, objective))


def _summary(key: str, runs: list[EndedRun], objective: ObjectiveSpec) -> Summary:
    values = tuple(objective_value(runs, objective, metric) for metric in objective.all_metrics)
    return Summary(key, runs[0].method, runs, values)


def _order(summary: Summary, objective: ObjectiveSpec) -> tuple[bool, bool, float]:
    value = summary.values[0]
    rank = 0.0 if value is None else -value if objective.maximize else value
    return not summary.on_front, summary.failed or value is None, rank


def _with_front(found: list[Summary], objective: ObjectiveSpec) -> list[Summary]:
    """The same with the Pareto front marked, among those that finished the most seeds of their method."""
    signs = [1 if maximized(metric) else -1 for metric in objective.all_metrics]
    points = {
        each.configuration: [sign * value for sign, value in zip(signs, each.values, strict=True) if value is not None]
        for each in with_most_seeds(found)
        if None not in each.values
    }
    front = {key for key, point in points.items() if not any(_dominates(other, point) for other in points.values())}
    return [replace(each, on_front=each.configuration in front) for each in found]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(mine >= theirs for mine, theirs in zip(one, other, strict=True))


def with_most_seeds(found: list[Summary]) -> list[Summary]:
    """Those that finished the most seeds among their method's configurations, without a failed run.

    Otherwise a configuration that was stopped after one lucky seed would beat one that ran all of them.
    """
    sound = [summary for summary in found if summary.values[0] is not None and not summary.failed]
    most: dict[str, int] = defaultdict(int)
    for summary in sound:
        most[summary.method] = max(most[summary.method], len(summary.finished))
    return [summary for summary in sound if len(summary.finished) == most[summary.method]]


def best(results: Iterable[EndedRun], objective: ObjectiveSpec) -> list[Summary]:
    """The best configuration of each method, the overall best first; by the runs that `of_the_verdict` names.

    Eligible are those that finished the most seeds among their method's configurations, without a failed run. A method
    without one is missing.
    """
    return _best_of_each_method(summaries(of_the_verdict(results, objective), objective), 1)


def best_of_search(results: Iterable[EndedRun], objective: ObjectiveSpec, count: int = 1) -> list[Summary]:
    """As `best`, by the runs of the search alone and with up to `count` configurations per method."""
    return _best_of_each_method(summaries(of_the_search(results), objective), count)


def worth_keeping(results: Iterable[EndedRun], objective: ObjectiveSpec, count: int) -> set[str]:
    """The configurations that `best` or `best_of_search` name, or that are on a Pareto front."""
    every = list(results)
    rankings = [summaries(of_the_verdict(every, objective), objective), summaries(of_the_search(every), objective)]
    chosen = [*_best_of_each_method(rankings[0], 1), *_best_of_each_method(rankings[1], count)]
    on_front = [summary for ranking in rankings for summary in ranking if summary.on_front]
    return {summary.configuration for summary in [*chosen, *on_front]}


def _best_of_each_method(found: list[Summary], count: int) -> list[Summary]:
    taken: dict[str, list[Summary]] = defaultdict(list)
    for summary in with_most_seeds(found):
        if len(taken[summary.method]) < count:
            taken[summary.method].append(summary)
    chosen = {summary.configuration for of_method in taken.values() for summary in of_method}
    return [summary for summary in found if summary.configuration in chosen]


def best_run(folder: SweepFolder, best: Summary, objective: ObjectiveSpec) -> RunFolder | None:
    """The run of a best configuration with the best validation among those that still have an adapter, or None."""
    sign = -1 if objective.maximize else 1
    values = {run.seed: run.value(objective.metric) for run in best.finished}
    measured = {seed: value for seed, value in values.items() if value is not None}
    found = (folder.run(best.configuration, seed) for seed in sorted(measured, key=lambda seed: sign * measured[seed]))
    return next((run for run in found if any(is_there(part.adapter) for part in run.parts())), None)


def of_the_search(results: Iterable[Run]) -> list[Run]:
    """The runs that the search uses."""
    return [result for result in results if result.stage != CONFIRMATION]


def of_the_verdict(results: Iterable[Run], objective: ObjectiveSpec) -> list[Run]:
    """The runs on fresh seeds once each method has one, else those of the search.

    On the search's seeds the best was partly lucky; but a method without fresh seeds would not be compared at all.
    """
    every = list(results)
    fresh = _fresh(every)
    return fresh if fresh and not without_fresh_seeds(every, objective) else of_the_search(every)


def is_confirmed(results: Iterable[EndedRun]) -> bool:
    """Whether these, from `of_the_verdict`, are runs on fresh seeds."""
    return any(result.stage == CONFIRMATION for result in results)


def without_fresh_seeds(results: Iterable[Run], objective: ObjectiveSpec) -> list[str]:
    """The methods that still wait for a run on fresh seeds where others have one; empty where nothing is confirmed."""
    every = list(results)
    begun = {result.method for result in _fresh(every)}
    return [each.method for each in best_of_search(every, objective) if each.method not in begun] if begun else []


def _fresh(results: Iterable[Run]) -> list[Run]:
    return [result for result in results if result.stage == CONFIRMATION]


def base_summary(base: Mapping[str, Any], objective: ObjectiveSpec) -> Summary:
    """The base model as a summary of its own.

    Args:
        base: metrics of the base model under the names that results use (id_accuracy, val_mean_accuracy, ...).
    """
    values = tuple(base.get(metric) for metric in objective.all_metrics)
    return Summary(BASE, BASE, [EndedRun(configuration=BASE, method=BASE, status="finished", **base)], values)
