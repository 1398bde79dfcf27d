"""What a model that learns several tasks one after another knows of each of them after each stage.

a[t][i] is the accuracy on task i after stage t, T the last stage. docs/metrics.md names what is made of it.
"""

from collections.abc import Mapping
from statistics import fmean
from typing import Any, Literal

from gallop_ray.spec.metrics import Of
from gallop_ray.tasks.metrics import Accuracies, plain

Stages = Mapping[str, Accuracies]
"""What was measured of all tasks after each stage, by the task that it learnt, in their order."""
_KINDS: Mapping[str, Of] = {"accuracy": "share", "loss": "loss"}


def stages(known: Stages) -> dict[str, dict[str, Any]]:
    """By stage, the test accuracy and the test loss of each task of the sequence, as far as they were measured."""
    return {
        stage: {kind: row for kind, of in _KINDS.items() if (row := _row(found, list(known), "test", of))}
        for stage, found in known.items()
    }


def transfer(known: Stages) -> dict[str, float | None]:
    """Backward transfer and forgetting, on test and (`val_`) validation sets; None where an accuracy is missing.

    backward_transfer: the mean over all tasks but the last of a[T][i] - a[i][i] (arXiv 1706.08840, equation 3).
    sequence_forgetting: of the best a[t][i] of the stages before the last, less a[T][i] (arXiv 1801.10112, section 3).
    """
    found: dict[str, float | None] = {}
    for prefix, split in _SPLITS.items():
        rows = [_row(each, list(known), split, "share") for each in known.values()]
        whole = all(len(row) == len(known) for row in rows)
        earlier, last = list(known)[:-1], rows[-1]
        gained = [last[task] - rows[i][task] for i, task in enumerate(earlier)] if whole else []
        lost = [max(row[task] for row in rows[:-1]) - last[task] for task in earlier] if whole else []
        found[f"{prefix}backward_transfer"] = fmean(gained) if gained else None
        found[f"{prefix}sequence_forgetting"] = fmean(lost) if lost else None
    return found


_SPLITS: Mapping[str, Literal["test", "validation"]] = {"": "test", "val_": "validation"}


def _row(found: Accuracies, tasks: list[str], split: str, of: Of) -> dict[str, float]:
    values = {task: plain(found.get(task, {}).get(split, {}), of) for task in tasks}
    return {task: value for task, value in values.items() if value is not None}
