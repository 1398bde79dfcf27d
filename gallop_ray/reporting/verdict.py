"""Which method is best, and whether the seeds suffice to say so; definitions in docs/statistics.md."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gallop_ray.reporting.comparison import LEAST_SEEDS, LEVEL, Comparison, degrees_of_freedom
from gallop_ray.reporting.power import MOST_SEEDS, POWER, power_of_t
from gallop_ray.reporting.spread import larger_is_better
from gallop_ray.reporting.verdict_text import best_text, open_text, tied_text

Outcome = Literal["best", "tied with", "not enough seeds"]

MARGIN = 0.02
"""Two methods whose means differ by less than this are as good as each other: two points of accuracy."""


@dataclass(frozen=True)
class Verdict:
    """`others`: the methods that the leader beats, is tied with, or is not told apart from.

    `seeds_needed`: to tell the best two apart with a power of 0.8, if their difference is as observed; null where it is
    known already, unknown, or out of reach.
    """

    outcome: Outcome
    metric: str
    leader: str
    others: tuple[str, ...]
    seeds_needed: int | None
    text: str


def decide(metric: str, ranking: Sequence[str], comparisons: Sequence[Comparison]) -> Verdict:
    """The verdict on methods.

    Args:
        ranking: two methods or more, the best mean first.
        comparisons: of this metric, corrected; pairs without two common seeds are missing.
    """
    leader, *rest = ranking
    of = {rival: _between(leader, rival, comparisons) for rival in rest}
    like = [rival for rival in rest if not _beats(leader, of[rival])]
    undecided = [rival for rival in like if not _equivalent(of[rival])]
    beaten = [rival for rival in rest if rival not in like]
    if not like:
        return Verdict("best", metric, leader, tuple(rest), None, best_text(metric, leader, rest, of[rest[0]]))
    if not undecided:
        text = tied_text(metric, leader, like, beaten, MARGIN)
        return Verdict("tied with", metric, leader, tuple(like), None, text)
    closest = of[undecided[0]]
    needed = seeds_needed(closest, LEVEL / max(1, len(comparisons)))
    text = open_text(metric, leader, undecided, beaten, closest, needed, len(ranking))
    return Verdict("not enough seeds", metric, leader, tuple(undecided), needed, text)


def seeds_needed(comparison: Comparison | None, level: float = LEVEL, power: float = POWER) -> int | None:
    """Seeds at which a paired t-test finds the observed difference, with the observed spread, with this power.

    The seeds' share of the squared standard error falls with their number, the examples' share stays. Null without a
    difference or a spread to go by, and beyond 1000.
    """
    if comparison is None or comparison.difference == 0:
        return None
    spread, stays = comparison.seed_error**2 * comparison.seeds, comparison.example_error**2
    if spread + stays == 0:
        return None
    low, high = LEAST_SEEDS, MOST_SEEDS + 1
    while low < high:
        middle = (low + high) // 2
        enough = _power(comparison.difference, spread / middle, stays, middle, level) >= power
        low, high = (low, middle) if enough else (middle + 1, high)
    return low if low <= MOST_SEEDS else None


def _power(difference: float, by_seeds: float, by_examples: float, seeds: int, level: float) -> float:
    """Of a two-sided test; the squared errors are those at that number of seeds."""
    freedom = degrees_of_freedom(math.sqrt(by_seeds), math.sqrt(by_examples), seeds)
    tests = ((by_seeds, seeds - 1), (by_seeds + by_examples, freedom))
    return min(power_of_t(abs(difference), math.sqrt(error), of, level) for error, of in tests if error)


def _beats(leader: str, comparison: Comparison | None) -> bool:
    """Means are over each method's own seeds, comparisons over common ones: both have to favour the leader."""
    if comparison is None or not comparison.different:
        return False
    leads = comparison.difference if comparison.first_method == leader else -comparison.difference
    return (leads > 0) == (larger_is_better(comparison.metric) is not False)


def _between(leader: str, rival: str, comparisons: Sequence[Comparison]) -> Comparison | None:
    pair = {leader, rival}
    return next((each for each in comparisons if {each.first_method, each.second_method} == pair), None)


def _equivalent(comparison: Comparison | None) -> bool:
    """Two one-sided tests at level 0.05 (Schuirmann 1987): the 90 % interval lies within the margin."""
    if comparison is None or comparison.seeds < LEAST_SEEDS:
        return False
    low, high = comparison.interval(1 - 2 * LEVEL)
    return low > -MARGIN and high < MARGIN
