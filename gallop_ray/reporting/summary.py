"""What the tables say: results of runs gathered by configuration and by method."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gallop_ray.spec.schema import ObjectiveSpec, larger_is_better
from gallop_ray.tracking.files import Record
from gallop_ray.tracking.records import CONFIRMATION
from gallop_ray.tracking.summary import mean_and_std, objective_value

BASE = "base model"


@dataclass(frozen=True)
class Summary:
    """The runs of one configuration.

    `values` are what it counts for by each of the objective's metrics, null without a finished seed. `on_front`: no
    other configuration is as good by all of several metrics and better by one.
    """

    configuration: str
    method: str
    runs: list[Record]
    values: tuple[float | None, ...]
    on_front: bool = False

    @property
    def finished(self) -> list[Record]:
        """The runs that neither failed nor diverged."""
        return [run for run in self.runs if run["status"] == "finished"]

    def first(self, name: str) -> Any:
        """A value that all runs share, or null."""
        return next((run[name] for run in self.runs if run.get(name) is not None), None)

    def over_seeds(self, name: str) -> tuple[float | None, float | None]:
        """Mean and standard deviation of a metric."""
        return mean_and_std(run.get(name) for run in self.finished)


def summaries(results: Iterable[Record], objective: ObjectiveSpec) -> list[Summary]:
    """One summary a configuration, the best by the objective first and those without one last.

    With several metrics the Pareto front comes first; within it and without, the first metric decides.
    """
    runs: dict[str, list[Record]] = defaultdict(list)
    for result in results:
        runs[result["configuration"]].append(result)
    found = [_summary(key, of_key, objective) for key, of_key in sorted(runs.items())]
    if objective.metrics:
        found = _with_front(found, objective)
    return sorted(found, key=lambda summary: _order(summary, objective))


def _summary(key: str, runs: list[Record], objective: ObjectiveSpec) -> Summary:
    values = tuple(objective_value(runs, objective, metric) for metric in objective.all_metrics)
    return Summary(key, runs[0]["method"], runs, values)


def _order(summary: Summary, objective: ObjectiveSpec) -> tuple[bool, bool, float]:
    value = summary.values[0]
    return not summary.on_front, value is None, 0.0 if value is None else -value if objective.maximize else value


def _with_front(found: list[Summary], objective: ObjectiveSpec) -> list[Summary]:
    """The same with the Pareto front marked, of those that finished the most seeds of their method."""
    signs = [1 if larger_is_better(metric) else -1 for metric in objective.all_metrics]
    points = {
        each.configuration: [sign * value for sign, value in zip(signs, each.values, strict=True) if value is not None]
        for each in _with_most_seeds(found)
        if None not in each.values
    }
    front = {key for key, point in points.items() if not any(_dominates(other, point) for other in points.values())}
    return [replace(each, on_front=each.configuration in front) for each in found]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(mine >= theirs for mine, theirs in zip(one, other, strict=True))


def _with_most_seeds(found: list[Summary]) -> list[Summary]:
    """Those that finished the most seeds of their method's configurations."""
    most: dict[str, int] = defaultdict(int)
    for summary in found:
        most[summary.method] = max(most[summary.method], len(summary.finished))
    return [summary for summary in found if len(summary.finished) == most[summary.method]]


def best_of_each_method(found: list[Summary], count: int = 1) -> list[Summary]:
    """From sorted summaries the best `count` of each method, among those that finished the most seeds.

    A configuration that was stopped after a lucky seed would otherwise beat one that had to stand by all of them.
    """
    best: dict[str, list[Summary]] = defaultdict(list)
    for summary in _with_most_seeds(found):
        best[summary.method].append(summary)
    return [summary for summary in found if summary in best[summary.method][:count]]


def of_the_search(results: Iterable[Record]) -> list[Record]:
    """The runs that the search goes by."""
    return [result for result in results if result.get("stage") != CONFIRMATION]


def of_the_verdict(results: Iterable[Record]) -> list[Record]:
    """The runs on fresh seeds, where there are any: those that were searched with have picked the best by luck, too."""
    every = list(results)
    return [result for result in every if result.get("stage") == CONFIRMATION] or every


def base_summary(base: Mapping[str, Any], objective: ObjectiveSpec) -> Summary:
    """The base model as a row of its own.

    Args:
        base: metrics of the base model under the names that results use (id_accuracy, val_mean_accuracy, ...).
    """
    values = tuple(base.get(metric) for metric in objective.all_metrics)
    return Summary(BASE, BASE, [{**base, "status": "finished"}], values)
