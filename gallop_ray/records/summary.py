"""Numbers of results: flat names, and mean and standard deviation over seeds."""

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from gallop_ray.spec.schema import Metric, ObjectiveSpec, larger_is_better

_NO_MEASUREMENT = ("seed", "learning_rate", "selection_ratio", "started", "ended", "attempts", "micro_batch_size")
_BY_CONFIGURATION = ("trained_parameters", "density", "trainable_percent", "steps")
"""The same for all seeds: they need no standard deviation."""


def flatten(result: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one level, names joined by underscores: {"seconds": {"total": 3}} gives seconds_total."""
    flat: dict[str, Any] = {}
    for key, value in result.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}_")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def measurements(result: Mapping[str, Any]) -> dict[str, float]:
    """What was measured in a run: the numbers that are neither asked for nor points in time nor null.

    Nested ones are named <group>/<rest>: MLflow shows each group's charts in a section of its own.
    """
    return {
        name: float(value)
        for key, nested in result.items()
        for name, value in (flatten(nested, f"{key}/") if isinstance(nested, Mapping) else {key: nested}).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in _NO_MEASUREMENT
    }


def mean_and_std(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1) of the values that are not null; null where undefined."""
    known = [value for value in values if value is not None]
    return (fmean(known) if known else None, stdev(known) if len(known) > 1 else None)


def aggregate(values: Sequence[float], objective: ObjectiveSpec, metric: Metric) -> float | None:
    """What a configuration counts for by its seeds' values of a metric: their mean; null without any.

    With `standard_errors` that many standard errors of the mean (n - 1) make it worse; one seed has none.
    """
    mean, deviation = mean_and_std(values)
    if mean is None or deviation is None:
        return mean
    penalty = objective.standard_errors * deviation / sqrt(len(values))
    return mean - penalty if larger_is_better(metric) else mean + penalty


def objective_value(
    results: Iterable[Mapping[str, Any]], objective: ObjectiveSpec, metric: Metric | None = None
) -> float | None:
    """What a configuration with these results counts for, by its finished runs; null without any.

    Args:
        metric: one of the objective's; by default the only or first one.
    """
    of = metric or objective.metric
    finished = [result[of] for result in results if result["status"] == "finished" and result.get(of) is not None]
    return aggregate(finished, objective, of)


def over_seeds(results: Iterable[Mapping[str, Any]], first: Sequence[str] = ()) -> dict[str, float]:
    """Of the finished runs: the mean of each measurement under its name, <name>_std beside it, and n_seeds.

    Of groups only what configurations are compared by: test sets of tasks, and the whole time. The measurements of
    `first` come before the others: MLflow's page that compares runs opens with the first one that it was sent.
    """
    runs = [measurements(result) for result in results if result["status"] == "finished"]
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
