"""The metrics of a run, from accuracies of the tuned and of the base model. docs/metrics.md defines them."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from gallop_ray.spec.schema import DataSpec

COLLAPSED_BELOW = 0.01
VACUOUS_BELOW = 0.05
VACUOUS = (
    f"Forget ratios by generation are vacuous: the base model answers less than {VACUOUS_BELOW:.0%} of the OOD tests "
    "right that way, so there is nothing to forget."
)

Accuracies = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By task, split ("validation", "test") and way of measuring ("likelihood", "generated"), each in [0, 1]."""
Correct = Mapping[str, Mapping[str, Mapping[str, str]]]
"""As Accuracies, but for each example in the split's order a 1 where it was answered right, a 0 where not."""
_Value = TypeVar("_Value")


def plain(ways: Mapping[str, _Value]) -> _Value | None:
    """What metrics without a suffix go by: likelihood; generation for a task without options, which has no other."""
    return ways.get("likelihood", ways.get("generated"))


def accuracies(correct: Correct) -> Accuracies:
    """The shares of ones."""
    return {
        task: {
            split: {way: each.count("1") / len(each) for way, each in ways.items()} for split, ways in splits.items()
        }
        for task, splits in correct.items()
    }


def forget_ratio(base: float | None, tuned: float | None) -> float | None:
    """max(0, (base - tuned) / base) of two OOD accuracies (GaLLoP, arXiv 2510.19778); None where the base has 0."""
    if base is None or tuned is None or base == 0:
        return None
    return max(0.0, (base - tuned) / base)


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


def collapse_rate(ood_accuracies: Sequence[float]) -> float | None:
    """Share of OOD accuracies below COLLAPSED_BELOW; its denominator is their number. None where there are none."""
    return fmean(one < COLLAPSED_BELOW for one in ood_accuracies) if ood_accuracies else None


def summarize(
    task_accuracies: Accuracies, base_accuracies: Accuracies, train_task: str, ood_tasks: Sequence[str]
) -> dict[str, float | None]:
    """id_accuracy, ood_accuracy (mean over OOD tasks), forget_ratio and collapse_rate, each in three versions.

    Plain: test sets by likelihood; with suffix `_generated`: test sets by generating; with prefix `val_`: validation
    sets by likelihood, with val_mean_accuracy, the mean of ID and OOD. Tasks without options count by generating
    everywhere. None where something was not measured.
    """
    validation = _four(task_accuracies, base_accuracies, train_task, ood_tasks, "validation", "likelihood")
    test = _four(task_accuracies, base_accuracies, train_task, ood_tasks, "test", "likelihood")
    generated = _four(task_accuracies, base_accuracies, train_task, ood_tasks, "test", "generated")
    return {
        **test,
        **{f"{key}_generated": value for key, value in generated.items()},
        **{f"val_{key}": value for key, value in validation.items()},
        "val_mean_accuracy": _mean([validation["id_accuracy"], validation["ood_accuracy"]]),
    }


def _four(
    tuned: Accuracies, base: Accuracies, train_task: str, ood_tasks: Sequence[str], split: str, way: str
) -> dict[str, float | None]:
    measured = [_get(tuned, task, split, way) for task in ood_tasks]
    known = [one for one in measured if one is not None]
    ood, ood_base = _mean(measured), _mean([_get(base, task, split, way) for task in ood_tasks])
    return {
        "id_accuracy": _get(tuned, train_task, split, way),
        "ood_accuracy": ood,
        "forget_ratio": forget_ratio(ood_base, ood),
        "collapse_rate": collapse_rate(known) if len(known) == len(measured) else None,
    }


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
