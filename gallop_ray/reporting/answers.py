"""What a run got right on test sets, example by example, weighted as a metric weights it."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.metrics import Correct, summarize
from gallop_ray.tracking.files import Record
from gallop_ray.tracking.records import RunFolder, SweepFolder

Answers = dict[str, NDArray[np.float64]]
"""By task (examples,): 1 where the answer was right, 0 where not, times a weight; the sum of the means is the metric,
up to a constant."""


def weights_of(folder: SweepFolder, sweep: Sweep, metric: str) -> dict[str, float]:
    """What each task's accuracy on its test set counts for in a metric; empty for a metric that is no sum of them."""
    task, ood = sweep.data.train, sweep.data.ood
    others = {each: 1 / len(ood) for each in ood}
    if metric == "id_accuracy":
        return {task: 1.0}
    if metric == "ood_accuracy":
        return others
    if metric == "mean_accuracy":
        return {task: 0.5, **{each: share / 2 for each, share in others.items()}}
    base = _base_ood(folder.base() or {}, sweep)
    if metric == "forget_ratio" and base:  # 1 - OOD / base, but for its floor at 0
        return {each: -share / base for each, share in others.items()}
    return {}


def _base_ood(base: Record, sweep: Sweep) -> float | None:
    return summarize(base, base, sweep.data.train, sweep.data.ood)["ood_accuracy"]


def recorded(run: RunFolder) -> Correct:
    """correct.json; empty where there is none."""
    return run.read("correct") or {}


def weighted(correct: Correct, weights: Mapping[str, float]) -> Answers:
    """The answers to each task's test set; empty unless all tasks were recorded."""
    try:
        return {task: weight * _numbers(correct[task]["test"]["likelihood"]) for task, weight in weights.items()}
    except KeyError:
        return {}


def _numbers(digits: str) -> NDArray[np.float64]:
    return (np.frombuffer(digits.encode(), np.uint8) - ord("0")).astype(np.float64)
