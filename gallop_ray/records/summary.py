"""Numbers of results over seeds: means, standard deviations, and what a configuration counts for."""

from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import fmean, stdev

from gallop_ray.records.results import EndedRun
from gallop_ray.spec.metrics import maximized
from gallop_ray.spec.schema import ObjectiveSpec

_BY_CONFIGURATION = ("trained_parameters", "density", "trainable_percent", "steps")
"""The same for all seeds: they need no standard deviation."""


def mean_and_std(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1) of the values that are not null; null where undefined."""
    known = [value for value in values if value is not None]
    return (fmean(known) if known else None, stdev(known) if len(known) > 1 else None)


def aggregate(values: Sequence[float], objective: ObjectiveSpec, metric: str) -> float | None:
    """What a configuration counts for by its seeds' values of a metric: their mean; null without any.

    With `standard_errors` that many standard errors of the mean (n - 1) make it worse; one seed has none.
    """
    mean, deviation = mean_and_std(values)
    if mean is None or deviation is None:
        return mean
    penalty = objective.standard_errors * deviation / sqrt(len(values))
    return mean - penalty if maximized(metric) else mean + penalty


def objective_value(results: Iterable[EndedRun], objective: ObjectiveSpec, metric: str | None = None) -> float | None:
    """What a configuration with these results counts for, by its finished runs; null without any.

    Args:
        metric: one of the objective's; by default the only or first one.
    """
    of = metric or objective.metric
    values = [result.value(of) for result in results if result.finished]
    return aggregate([value for value in values if value is not None], objective, of)


def over_seeds(results: Iterable[EndedRun], first: Sequence[str] = ()) -> dict[str, float]:
    """Of the finished runs: the mean of each measurement under its name, <name>_std beside it, and n_seeds.

    Of groups only what configurations are compared by: test sets of tasks, and the whole time. The measurements of
    `first` come before the others: MLflow's page that compares runs opens with the first one that it was sent.
    """
    runs = [result.measurements() for result in results if result.finished]
    summary: dict[str, float] = {}
    names = sorted({name for run in runs for name in run if _compared(name)})
    for name in sorted(names, key=lambda name: name not in first):
        mean, std = mean_and_std(run.get(name) for run in runs)
        varies = "/" not in name and name not in _BY_CONFIGURATION
        summary |= {name: mean} if mean is not None else {}
        summary |= {f"{name}_std": std} if std is not None and varies else {}
    return summary | {"n_seeds": float(len(runs))}


def _compared(name: str) -> bool:
    return "/" not in name or name == "seconds/total" or (name.startswith("tasks/") and "_test_" in name)
