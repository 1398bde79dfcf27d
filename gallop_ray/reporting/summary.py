"""What the tables say: results of runs gathered by configuration and by method."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gallop_ray.spec.schema import ObjectiveSpec
from gallop_ray.tracking.files import Record
from gallop_ray.tracking.records import CONFIRMATION
from gallop_ray.tracking.summary import mean_and_std

BASE = "base model"


@dataclass(frozen=True)
class Summary:
    """The runs of one configuration. `objective` is the mean over its finished seeds, null without any."""

    configuration: str
    method: str
    runs: list[Record]
    objective: float | None

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
    """One summary a configuration, the best by the objective first and those without one last."""
    runs: dict[str, list[Record]] = defaultdict(list)
    for result in results:
        runs[result["configuration"]].append(result)
    found = [_summary(key, of_key, objective) for key, of_key in sorted(runs.items())]
    return sorted(found, key=lambda summary: _order(summary, objective))


def _summary(key: str, runs: list[Record], objective: ObjectiveSpec) -> Summary:
    mean, _ = mean_and_std(run.get(objective.metric) for run in runs if run["status"] == "finished")
    return Summary(key, runs[0]["method"], runs, mean)


def _order(summary: Summary, objective: ObjectiveSpec) -> tuple[bool, float]:
    value = summary.objective
    return value is None, 0.0 if value is None else -value if objective.maximize else value


def best_of_each_method(found: list[Summary], count: int = 1) -> list[Summary]:
    """From sorted summaries the best `count` of each method, among those that finished the most seeds.

    A configuration that was stopped after a lucky seed would otherwise beat one that had to stand by all of them.
    """
    most: dict[str, int] = defaultdict(int)
    for summary in found:
        most[summary.method] = max(most[summary.method], len(summary.finished))
    best: dict[str, list[Summary]] = defaultdict(list)
    for summary in found:
        if len(summary.finished) == most[summary.method]:
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
    return Summary(BASE, BASE, [{**base, "status": "finished"}], base.get(objective.metric))
