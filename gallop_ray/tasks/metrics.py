"""The metrics of a run, from accuracies of the tuned and of the base model. docs/metrics.md defines them."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from gallop_ray.spec.metrics import Metric, Scores, forget_ratio, metrics, test_metrics
from gallop_ray.spec.schema import DataSpec
from gallop_ray.tasks.values import Values, mean

VACUOUS_BELOW = 0.05

Accuracies = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By task, split ("validation", "test") and way of measuring; the first way of a split is what counts for the task."""
Correct = Mapping[str, Mapping[str, Mapping[str, Values]]]
"""As Accuracies, but for each example in the split's order: 1 where it was answered right, 0 where not, or a number."""
_Value = TypeVar("_Value")


def plain(ways: Mapping[str, _Value]) -> _Value | None:
    """What metrics without a suffix go by: the first way that was measured."""
    return next(iter(ways.values()), None)


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
    """The forget ratio on the test set of each OOD task, by way of measuring."""
    return {
        task: {way: forget_ratio(base.get(task, {}).get("test", {}).get(way), each) for way, each in ways.items()}
        for task in ood_tasks
        if (ways := tuned.get(task, {}).get("test"))
    }


def is_vacuous(base: Accuracies, ood_tasks: Sequence[str]) -> bool | None:
    """Whether the generated forget ratio is: by the base model's mean over OOD tasks. None where not measured."""
    mean = _mean([_get(base, task, "test", "generated") for task in ood_tasks])
    return None if mean is None else vacuous(mean)


def summarize(
    task_accuracies: Accuracies, base_accuracies: Accuracies, train_task: str, ood_tasks: Sequence[str]
) -> dict[str, float | None]:
    """Every metric of gallop_ray.spec.metrics, those of the sweep among them, each in three versions.

    Plain: test sets by likelihood; with suffix `_generated`: test sets by generating; with prefix `val_`: validation
    sets by likelihood. Tasks without options count by generating
    everywhere. None where something was not measured.
    """
    tuned, base, ood = task_accuracies, base_accuracies, list(ood_tasks)
    found: dict[str, float | None] = {}
    for name, split, way in (("{}", "test", "likelihood"), ("{}_generated", "test", "generated")):
        found |= _of(test_metrics(), name, *(_scores(each, train_task, ood, split, way) for each in (tuned, base)))
    validation = (_scores(each, train_task, ood, "validation", "likelihood") for each in (tuned, base))
    return found | _of(metrics(), "val_{}", *validation)


def _of(which: Iterable[Metric], name: str, tuned: Scores, base: Scores) -> dict[str, float | None]:
    values = {name.format(metric.name): metric.value(tuned, base) for metric in which}
    return {each: None if value is None else float(value) for each, value in values.items()}


def _scores(accuracies: Accuracies, task: str, ood: Sequence[str], split: str, way: str) -> Scores:
    return Scores(_get(accuracies, task, split, way), {each: _get(accuracies, each, split, way) for each in ood})


def _get(accuracies: Accuracies, task: str, split: str, way: str) -> float | None:
    ways = accuracies.get(task, {}).get(split, {})
    return plain(ways) if way == "likelihood" else ways.get(way)


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
