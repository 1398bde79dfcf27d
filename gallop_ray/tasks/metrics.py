"""The metrics of a run, from accuracies of the tuned and of the base model. docs/metrics.md defines them."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, TypeVar

from gallop_ray.spec.data import DataSpec
from gallop_ray.spec.metrics import TEXT_LOSS, Of, Scores, forget_ratio, loss_increase, metrics, test_metrics
from gallop_ray.tasks.values import Values, mean

VACUOUS_BELOW = 0.05

Accuracies = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By task, split ("validation", "test") and way of measuring; the first way of a split is what counts for the task."""
Correct = Mapping[str, Mapping[str, Mapping[str, Values]]]
"""As Accuracies, but for each example in the split's order: 1 where it was answered right, 0 where not, or a number."""
_Value = TypeVar("_Value")


def task_of(key: str) -> str:
    """The task of a key of Correct, which of runs with several rounds is `<task trained on>/<task>`."""
    return key.rpartition("/")[2]


def plain(ways: Mapping[str, _Value], of: Of = "share") -> _Value | None:
    """What metrics without a suffix go by: the first way that was measured, unless it is the loss; or that itself."""
    if of != "share":
        return ways.get(of)
    first = next(iter(ways), "loss")
    return None if first == "loss" else ways[first]


def accuracies(correct: Correct) -> Accuracies:
    """The means over the examples."""
    return {
        task: {split: {way: mean(each) for way, each in ways.items()} for split, ways in splits.items()}
        for task, splits in correct.items()
    }


def vacuous(base: float | None) -> bool:
    """Whether the base model can so little that a forget ratio to its accuracy says nothing."""
    return base is not None and base < VACUOUS_BELOW


def forgetting(tuned: Accuracies, base: Accuracies, ood_tasks: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """The forget ratio on the test set of each OOD task, by way of measuring; of losses their increase."""
    return {
        task: {way: _lost(way, base.get(task, {}).get("test", {}).get(way), each) for way, each in ways.items()}
        for task in ood_tasks
        if (ways := tuned.get(task, {}).get("test"))
    }


def _lost(way: str, base: float | None, tuned: float) -> float | None:
    return loss_increase(base, tuned) if way == "loss" else forget_ratio(base, tuned)


def is_vacuous(base: Accuracies, ood_tasks: Sequence[str]) -> bool | None:
    """Whether the generated forget ratio is: by the base model's mean over OOD tasks. None where not measured."""
    mean = _scores(base, "", ood_tasks, "test", "generated").mean_ood
    return None if mean is None else vacuous(mean)


def summarize(
    task_accuracies: Accuracies, base_accuracies: Accuracies, train_task: str, ood_tasks: Sequence[str]
) -> dict[str, float | None]:
    """Every metric of gallop_ray.spec.metrics, those of the sweep among them, each in three versions.

    Plain: test sets by what each task counts by; with suffix `_generated`: test sets by generating; with prefix `val_`:
    validation sets by what each task counts by. Metrics of losses are made of those of all tasks that have one, of
    margins likewise, the others of all that count by something else. None where something was not measured.
    """
    tuned, base, ood = task_accuracies, base_accuracies, list(ood_tasks)
    found: dict[str, float | None] = {}
    for name, split, way in _VERSIONS:
        of = _of(way)
        which = [
            each
            for each in (test_metrics() if split == "test" else metrics())
            if each.of == of and each.name != TEXT_LOSS
        ]
        if of == "share" or any(of in splits.get(split, ()) for splits in tuned.values()):
            scores = [_scores(each, train_task, ood, split, way) for each in (tuned, base)]
            values = {name.format(metric.name): metric.value(*scores) for metric in which}
            found |= {each: None if value is None else float(value) for each, value in values.items()}
    return found


_VERSIONS = (
    ("{}", "test", "share"),
    ("{}_generated", "test", "generated"),
    ("val_{}", "validation", "share"),
    ("{}", "test", "loss"),
    ("val_{}", "validation", "loss"),
    ("val_{}", "validation", "margin"),
)
"""The names, the split and the way of each version of the metrics."""


def _scores(accuracies: Accuracies, task: str, ood: Sequence[str], split: str, way: str) -> Scores:
    measured = those_measured(accuracies, ood, split, way)
    return Scores(_get(accuracies, task, split, way), {each: _get(accuracies, each, split, way) for each in measured})


def those_measured(
    found: Mapping[str, Mapping[str, Mapping[str, Any]]], tasks: Sequence[str], split: str, way: str
) -> list[str]:
    """The tasks without those of which this split was measured in another way alone: a share, a loss, by generation."""
    return [task for task in tasks if not found.get(task, {}).get(split) or _get(found, task, split, way) is not None]


def _get(found: Mapping[str, Mapping[str, Mapping[str, _Value]]], task: str, split: str, way: str) -> _Value | None:
    ways = found.get(task, {}).get(split, {})
    return ways.get(way) if way == "generated" else plain(ways, _of(way))


def _of(way: str) -> Of:
    return "loss" if way == "loss" else "margin" if way == "margin" else "share"


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None where there are no values or one of them is missing."""
    known = [one for one in values if one is not None]
    return fmean(known) if known and len(known) == len(values) else None


def over_rounds(metrics: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each metric that all rounds have; None where it is None in one of them."""
    names = [name for name in metrics[0] if all(name in each for each in metrics)]
    return {name: _mean([each[name] for each in metrics]) for name in names}


def base_metrics(base: Accuracies, data: DataSpec) -> dict[str, float | None]:
    """The base model's metrics under the names that results use, each round's tasks being its ID and OOD tasks."""
    return over_rounds([summarize(base, base, each.train_task, each.ood) for each in data.rounds])
