"""A run's values for each example of the test sets, with the weights of a metric."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.records.files import read_json
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.spec.data import DataSpec
from gallop_ray.spec.metrics import made_of, task_weights
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.metrics import Accuracies, Correct, plain, summarize, those_measured
from gallop_ray.tasks.values import are_values, numbers

Answers = dict[str, NDArray[np.float64]]
"""By task, (examples,): 1 for a right answer, else 0, or another measured value, times a weight; the sum of the means
is the metric, up to a constant."""


def weights_of(folder: SweepFolder, sweep: Sweep, metric: str) -> dict[str, float]:
    """The weight of each task's test accuracy in a metric; empty for a metric that is not a sum of accuracies.

    For a sweep with several rounds by `<task trained on>/<task>`, all rounds equal.
    """
    base, rounds = folder.base() or {}, sweep.data.rounds
    if len(rounds) == 1:
        return _of_a_round(base, rounds[0], metric)
    return {
        f"{each.train_task}/{task}": weight / len(rounds)
        for each in rounds
        for task, weight in _of_a_round(base, each, metric).items()
    }


def _of_a_round(base: Accuracies, data: DataSpec, metric: str) -> dict[str, float]:
    before = summarize(base, base, data.train_task, data.ood)["ood_accuracy"]
    return task_weights(metric, data.train_task, those_measured(base, data.ood, "test", made_of(metric)), before)


def recorded(run: RunFolder) -> Correct:
    """correct.json; empty where it is missing or damaged, which is reported once."""
    correct = run.read("correct") or {}
    if not _is_correct(correct, 3):
        note_damage(
            run.path / "correct.json", "does not hold 0 and 1, or a number, for each example", "it counts as not there"
        )
        return {}
    return correct


def base_recorded(folder: SweepFolder, sweep: Sweep) -> Correct:
    """base_correct.json with the names in runs' correct.json: `<task trained on>/<task>` for several rounds."""
    try:
        correct = read_json(folder.path / "base_correct.json") or {}
    except Damaged:
        correct = {}
    if not _is_correct(correct, 3):
        return {}
    if len(sweep.data.rounds) == 1:
        return correct
    return {f"{each.train_task}/{task}": splits for each in sweep.data.rounds for task, splits in correct.items()}


def _is_correct(value: Any, depth: int) -> bool:
    """Whether a value is a Correct (depth 3), or a part of one at this depth above its values."""
    if depth == 0:
        return are_values(value)
    return isinstance(value, Mapping) and all(_is_correct(each, depth - 1) for each in value.values())


def weighted(correct: Correct, weights: Mapping[str, float], metric: str) -> Answers:
    """What was measured of each task's test set; empty unless all tasks were recorded."""
    found = {task: plain(correct.get(task, {}).get("test", {}), made_of(metric)) for task in weights}
    if not all(found.values()):
        return {}
    return {task: weight * np.array(numbers(found[task] or ""), np.float64) for task, weight in weights.items()}
