"""Where a sweep may contain `module:Name`, and where an address to read from."""

from collections.abc import Iterator

from gallop_ray.disk.bucket.address import is_bucket
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


def addresses(sweep: Sweep) -> dict[tuple[str, ...], str]:
    """What a sweep reads from buckets, its model and its data, by the fields that name it."""
    places: dict[tuple[str, ...], object] = {
        ("model", "name"): sweep.model.name,
        ("model", "delta"): sweep.model.delta,
        ("data", "root"): sweep.data.root,
        ("evaluation", "text"): sweep.evaluation.text,
    }
    for name, task in sweep.data.tasks.items():
        places["data", "tasks", name, "source"] = task.source
        places |= {("data", "tasks", name, "splits", ours): theirs for ours, theirs in task.splits.items()}
    return {path: place for path, place in places.items() if isinstance(place, str) and is_bucket(place)}
