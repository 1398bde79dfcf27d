"""What earlier sweeps have found about the same search space, for a study to know from the start."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gallop_ray.records.folders import ConfigurationFolder
from gallop_ray.records.stored import StoredSweep, open_sweep
from gallop_ray.records.summary import objective_value
from gallop_ray.search.points import Values
from gallop_ray.spec.configuration import method_space
from gallop_ray.spec.problems import Path as FieldPath
from gallop_ray.spec.schema import Sweep

_DEAF = ("random", "grid", "nsga2", "cmaes")  # samplers that go by no results, or by those of their own points alone


@dataclass(frozen=True)
class Known:
    """A finished configuration of an earlier sweep: its point, its objectives, and `<folder>/<key>`."""

    point: Values
    values: tuple[float, ...]
    source: str


def known_points(sweep: Sweep, method: str) -> list[Known]:
    """Those of one method, in the order of the folders that search.warm_start names.

    Raises ValueError for what `refused_warm_start` says.
    """
    found = []
    for place in sweep.search.warm_start:
        earlier = open_sweep(place)
        if reason := _differs(earlier.sweep, sweep):
            raise ValueError(f"search.warm_start: {place} {reason}")
        if method in _shared(earlier.sweep, sweep):
            found += [known for each in _finished(earlier, method) if (known := _known(each, sweep, method, place))]
    return found


def refused_warm_start(sweep: Sweep) -> Iterator[tuple[FieldPath, str]]:
    """The folders that are no sweep, or one that says nothing about this one's search: path, and why."""
    if sweep.search.warm_start and sweep.search.sampler in _DEAF:
        message = f"is not allowed with {sweep.search.sampler}, which takes no such results; choose tpe, gp or nomad"
        yield ("search", "warm_start"), message
        return
    for place, folder in enumerate(sweep.search.warm_start):
        try:
            reason = _differs(open_sweep(folder).sweep, sweep)
        except ValueError as error:
            reason = f"cannot be read: {error}"
        if reason:
            yield ("search", "warm_start", place), f"{folder} {reason}"


def _shared(earlier: Sweep, sweep: Sweep) -> list[str]:
    """The methods that both have, with the same options and the same ranges."""
    before = {each.name: each for each in earlier.methods}
    return [
        each.name
        for each in sweep.methods
        if before.get(each.name) == each and method_space(earlier, each.name) == method_space(sweep, each.name)
    ]


def _differs(earlier: Sweep, sweep: Sweep) -> str:
    """Why the earlier sweep is of no use here; empty where it is."""
    mine, theirs = sweep.objective.racing.all_metrics, earlier.objective.racing.all_metrics
    if mine != theirs:
        return f"went by {', '.join(theirs)}, this sweep by {', '.join(mine)}; leave it out"
    if not _shared(earlier, sweep):
        return "has no method with the options and the search space that it has here; leave it out"
    return ""


def _finished(earlier: StoredSweep, method: str) -> Iterator[ConfigurationFolder]:
    for each in earlier.folder.configurations():
        if each.method == method and each.status().status == "finished":
            yield each


def _known(configuration: ConfigurationFolder, sweep: Sweep, method: str, place: str) -> Known | None:
    asked, results = configuration.configuration(), configuration.results()
    values = [objective_value(results, sweep.objective.racing, metric) for metric in sweep.objective.racing.all_metrics]
    numbers = tuple(value for value in values if value is not None)
    if len(numbers) < len(values):  # it was measured in another way
        return None
    point: Values = {path: asked.option(path) for path in method_space(sweep, method)}
    return Known(point, numbers, f"{Path(place).resolve()}/{configuration.key}")
