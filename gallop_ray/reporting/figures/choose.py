"""Which runs a figure shows."""

from collections import defaultdict

import pandas as pd

from gallop_ray.analysis import ranking
from gallop_ray.analysis.frame import results_of
from gallop_ray.analysis.ranking import Summary, of_the_search, summaries
from gallop_ray.errors import NothingToDrawError
from gallop_ray.spec.search import ObjectiveSpec

DEFAULT = ObjectiveSpec()


def searched(frame: pd.DataFrame, objective: ObjectiveSpec) -> list[Summary]:
    """Every configuration with a finished run of the search, the best by the objective first."""
    found = summaries(of_the_search(results_of(frame)), objective)
    return _not_empty([each for each in found if each.finished])


def best(frame: pd.DataFrame, objective: ObjectiveSpec) -> list[Summary]:
    """The best configuration of each method, by its runs on fresh seeds where there are any, the overall best first."""
    return _not_empty(ranking.best(results_of(frame), objective))


def by_method(found: list[Summary], frame: pd.DataFrame) -> dict[str, list[Summary]]:
    """The summaries of each method, methods in the frame's order."""
    methods: dict[str, list[Summary]] = defaultdict(list)
    for summary in found:
        methods[summary.method].append(summary)
    return {name: methods[name] for name in dict.fromkeys(frame["method"]) if name in methods}


def values(summary: Summary, metric: str) -> list[float]:
    """A metric of each finished seed that has it."""
    return [value for run in summary.finished if (value := run.value(metric)) is not None]


def _not_empty(found: list[Summary]) -> list[Summary]:
    if not found:
        raise NothingToDrawError("no run has finished")
    return found
