"""Where a method's best lies at an end of a log range: a point beyond it, and the range that has grown to hold it."""

from collections.abc import Iterable, Mapping

from pydantic import ValidationError

from gallop_ray.analysis.edges import end_of
from gallop_ray.records.folders import ConfigurationFolder
from gallop_ray.records.summary import objective_value
from gallop_ray.search.climbed import better_is_more, climbed
from gallop_ray.search.points import Values, random_point
from gallop_ray.spec.configuration import method_space, resolve
from gallop_ray.spec.rungs import climbs
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.space import LogRange, Range, extremes
from gallop_ray.spec.widening import times_widened, wider

_FEWEST = 3
"""Configurations that have been judged: of two, one is always the best."""


def beyond(
    sweep: Sweep, method: str, space: Mapping[str, Range], configurations: Iterable[ConfigurationFolder]
) -> tuple[dict[str, Range], Values] | None:
    """The space grown at an end at which the best so far lies, and the best's point with a value from what was added.

    space: of the method, as wide as it has become. None where there is no such end, where search.widen allows no more,
    and where the field allows no values there.
    """
    leader = _leader(sweep, method, configurations)
    if leader is None:
        return None
    asked, given = leader.configuration(), method_space(sweep, method)
    best: Values = {path: asked.option(path) for path in space}
    for path, allowed in space.items():
        first = given[path]
        if not isinstance(allowed, LogRange) or not isinstance(first, LogRange):
            continue
        end, times = end_of(allowed, best[path]), times_widened(first, allowed)
        if end is None or times >= sweep.search.widen:
            continue
        grown, added = wider(allowed, end)
        if all(_allowed(sweep, method, path, value) for value in extremes(added)):
            return {**space, path: grown}, {**best, **random_point({path: added}, sweep.search.seed, "widen", times)}
    return None


def _leader(sweep: Sweep, method: str, configurations: Iterable[ConfigurationFolder]) -> ConfigurationFolder | None:
    """The best of those with most seeds by the objective, or where they climb by the highest rung's value."""
    standings = [(place, each) for each in configurations if (place := _standing(sweep, method, each)) is not None]
    return max(standings, key=lambda each: each[0])[1] if len(standings) >= _FEWEST else None


def _standing(sweep: Sweep, method: str, configuration: ConfigurationFolder) -> tuple[int, float] | None:
    results = configuration.results()
    if any(each.failed for each in results):
        return None
    if climbs(sweep):
        at = climbed(sweep, configuration)
        rung = max(at.values, default=None)
        return None if rung is None else (rung, at.values[rung] * (1 if better_is_more(sweep, method, rung) else -1))
    finished = [each for each in results if each.finished]
    value = objective_value(finished, sweep.objective, sweep.objective.metric)
    # By the number of seeds first: one seed may be easier than another.
    return None if value is None else (len(finished), value if sweep.objective.maximize else -value)


def _allowed(sweep: Sweep, method: str, path: str, value: object) -> bool:
    try:
        resolve(sweep, method, {path: value})
    except ValidationError:
        return False
    return True
