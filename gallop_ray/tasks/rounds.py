"""Metrics of a run that trains on several tasks in turn: means over its rounds."""

from collections.abc import Mapping, Sequence

from gallop_ray.spec.schema import DataSpec
from gallop_ray.tasks.metrics import Accuracies, summarize


def over_rounds(metrics: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each metric that all rounds have; None where it is None in one of them."""
    names = [name for name in metrics[0] if all(name in each for each in metrics)]
    return {name: _mean([each[name] for each in metrics]) for name in names}


def base_metrics(base: Accuracies, data: DataSpec) -> dict[str, float | None]:
    """The base model's metrics under the names that results use, each round's tasks being its ID and OOD tasks."""
    return over_rounds([summarize(base, base, each.train_task, each.ood) for each in data.rounds])
