"""Where a sweep may contain `module:Name`."""

from collections.abc import Iterator

from gallop_ray.spec.configuration import trainings
from gallop_ray.spec.plugins import is_reference
from gallop_ray.spec.schema import Sweep


def references(sweep: Sweep) -> Iterator[str]:
    """Every `module:Name` of a sweep."""
    yield from filter(is_reference, (method.type for method in sweep.methods))
    formats = (task.format for task in sweep.data.tasks.values() if task.format is not None)
    yield from filter(is_reference, formats)
    training = [each for method in sweep.methods for each in trainings(sweep, method)]
    used = dict.fromkeys(name for each in training for name in (each.optimizer, each.schedule))
    search = (sweep.search.sampler, sweep.pruning.type)
    measures = [name for task in sweep.data.tasks.values() for name in (task.measure or "", *task.also)]
    yield from filter(is_reference, measures)
    yield from filter(is_reference, (*sweep.evaluation.metrics, *search, *used))
