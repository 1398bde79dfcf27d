"""Aggregates over seeds: means, standard deviations, and a configuration's objective."""

from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import fmean, stdev

from gallop_ray.records.results import EndedRun
from gallop_ray.spec.metrics import maximized
from gallop_ray.spec.search import ObjectiveSpec

_BY_CONFIGURATION = ("trained_parameters", "density", "trainable_percent", "steps")
"""The same for all seeds, so without a standard deviation."""


def mean_and_std(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1) of the values that are not null; null where undefined."""
    known = [value for value in values if value is not None]
    return (fmean(known) if known else None, stdev(known) if len(known) > 1 else None)


def aggregate(values: Sequence[float], objective: ObjectiveSpec, metric: str) -> float | None:
    """A configuration's value of a metric over seeds: their mean; None without any.

    With `standard_errors` the mean is made worse by that many standard errors (n - 1); one seed has none.
    """
    mean, deviation = mean_and_std(values)
    if mean is None or deviation is None:
        return mean
    penalty = objective.standard_errors * deviation / sqrt(len(values))
    return mean - penalty if maximized(metric) else mean + penalty


def objective_value(results: Iterable[EndedRun], objective: ObjectiveSpec, metric: str | None = None) -> float | None:
    """The objective of a configuration with these results, over its finished runs; None without any.

    Args:
        metric: one of the objective's; by default the only or first one.
    """
    of = metric or objective.metric
    values = [result.value(of) for result in results if result.finished]
    return aggregate([value for value in values if value is not None], objective, of)


def over_seeds(results: Iterable[EndedRun], first: Sequence[str] = ()) -> dict[str, float]:
    """Over the finished runs: the mean of each measurement under its name, its <name>_std, and n_seeds.

    From groups only what configurations are compared by: test sets of tasks, and the total time. The measurements in
    `first` precede the others: MLflow's page for comparing runs opens with the first one that it was sent.
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
