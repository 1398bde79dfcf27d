"""Best configurations at an edge of what was tried, read from a sweep's folder."""

from collections.abc import Iterable

from gallop_ray.spec.edges import Edge, edges
from gallop_ray.spec.schema import Sweep
from gallop_ray.tracking.ranking import Summary
from gallop_ray.tracking.records import SweepFolder

MARK = "^"
"""Behind the name of a method whose best configuration is at an edge."""


def edges_of(folder: SweepFolder, sweep: Sweep, best: Iterable[Summary]) -> dict[str, list[Edge]]:
    """The edges of each best configuration that has some, by its key.

    None of a Pareto front, whose ends lie at the ends of what was tried by their nature.
    """
    if sweep.objective.metrics:
        return {}
    known = {
        each.configuration: edges(sweep, folder.configuration(each.configuration).configuration()) for each in best
    }
    return {key: found for key, found in known.items() if found}
