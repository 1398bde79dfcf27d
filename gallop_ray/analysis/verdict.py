"""Which method is best, and whether the seeds suffice for a verdict; definitions in docs/statistics.md."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard

from scipy.special import nctdtr, stdtrit  # scipy.stats has the same, and takes four times as long to import

from gallop_ray.analysis.comparison import LEAST_SEEDS, LEVEL, Comparison, degrees_of_freedom
from gallop_ray.spec.metrics import display_name, find, larger_is_better, scale_of, shown_value, unit_of
from gallop_ray.spec.schema import Sweep

POWER = 0.8
MOST_SEEDS = 1000
EFFECT = 2
"""A difference between two methods worth finding, in standard deviations of their differences over seeds."""


def power_of_t(difference: float, error: float, freedom: float, level: float) -> float:
    """The power of a two-sided t-test at this level; the true difference and its standard error in the same unit."""
    return 1 - float(nctdtr(freedom, difference / error, stdtrit(freedom, 1 - level / 2)))


def seeds_to_find(methods: int, effect: float = EFFECT) -> int:
    """Seeds at which a method that is so much better than each other one is called best with a power of 0.8."""
    each = 1 - (1 - POWER) / max(1, methods - 1)  # whatever the tests have in common (Bonferroni)
    seeds = range(LEAST_SEEDS, MOST_SEEDS)
    return next((n for n in seeds if power_of_t(effect, n**-0.5, n - 1, LEVEL) >= each), MOST_SEEDS)


def seeds_text(methods: int) -> str:
    """How many seeds a verdict over so many methods takes, as a clause."""
    return (
        f"it takes {LEAST_SEEDS} or more, and with {methods} methods {seeds_to_find(methods)} to find a difference of "
        f"{EFFECT} standard deviations over seeds 4 times in 5"
    )


_NAMED_AT_MOST = 4


def best_text(metric: str, leader: str, rest: Sequence[str], runner_up: Comparison | None) -> str:
    """The verdict for a leader that is better than all others."""
    return f"{leader} is best by {display_name(metric)} on test sets, ahead of {listed(rest)}.{_ahead(runner_up)}"


def tied_text(metric: str, leader: str, tied: Sequence[str], beaten: Sequence[str], margin: float) -> str:
    """The verdict for a leader that is equal, within the margin, to all that it does not beat."""
    ahead = f" Ahead of {listed(beaten)}." if beaten else ""
    within = f"they differ by less than {scale_of(metric) * margin:g} {unit_of(metric, difference=True)}"
    return f"{leader} is tied with {listed(tied)} by {display_name(metric)} on test sets: {within}.{ahead}"


def open_text(
    metric: str,
    leader: str,
    undecided: Sequence[str],
    beaten: Sequence[str],
    closest: Comparison | None,
    needed: int | None,
    methods: int,
) -> str:
    """The verdict for a leader that may be no better than some others; `methods`: how many were compared."""
    if closest is None:
        said = f"{leader} and {undecided[0]} have fewer than two seeds in common; a verdict takes at least two."
        return f"Not enough seeds to name a best method by {display_name(metric)} on test sets: {said}"
    if closest.difference == 0:
        apart = f"{leader} and {listed(undecided)} are not told apart by {closest.seeds} seeds."
    else:
        apart = f"{leader} is ahead, but {closest.seeds} seeds do not tell it from {listed(undecided)}."
    also = f" It is better than {listed(beaten)}." if beaten else ""
    return (
        f"Not enough seeds by {display_name(metric)} on test sets: {apart}{also}{_ahead(closest)} "
        f"{_needed(needed, closest, methods)}"
    )


def selection_text(sweep: Sweep) -> str | None:
    """A sentence if the objective has seen the tasks on which forgetting is measured, else None."""
    seen = [metric for metric in sweep.objective.named if (each := find(metric)) is None or each.needs_ood]
    tasks = dict.fromkeys(task for each in sweep.data.rounds for task in each.ood)
    if not seen or not tasks:
        return None
    return (
        f"The search goes by {' and '.join(seen)}, so it sees validation data of the OOD tasks "
        f"({listed(list(tasks))}): OOD accuracy and forgetting are those of a model selected for these tasks (oracle "
        "selection), not of tasks unknown to the search."
    )


def listed(names: Sequence[str]) -> str:
    """A few names, and how many others there are."""
    if len(names) > _NAMED_AT_MOST:
        return f"{', '.join(names[: _NAMED_AT_MOST - 1])} and {len(names) - _NAMED_AT_MOST + 1} others"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _ahead(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    low, high = sorted((comparison.low, comparison.high))
    metric, unit = comparison.metric, unit_of(comparison.metric, difference=True)
    interval = " to ".join(shown_value(metric, end, sign="+") for end in (low, high))
    pair = f"{comparison.first_method} minus {comparison.second_method}"
    difference = shown_value(metric, comparison.difference, sign="+")
    return f" {pair}: {difference} {unit} (95 % interval {interval}, {comparison.seeds} seeds)."


def _needed(needed: int | None, closest: Comparison, methods: int) -> str:
    if closest.seeds < LEAST_SEEDS:
        return f"{closest.seeds} seeds are too few for a verdict: {seeds_text(methods)}."
    return f"{_found(closest)}{_more_seeds(needed, closest)}"


def _found(closest: Comparison) -> str:
    """What a sweep like this one would have found: its power."""
    found, unit = detectable(closest), unit_of(closest.metric, difference=True)
    if found is None:
        return ""
    size = shown_value(closest.metric, found)
    return f"{closest.seeds} seeds with this spread find a difference of {size} {unit} 4 times in 5. "


def _more_seeds(needed: int | None, closest: Comparison) -> str:
    if needed is None and closest.difference == 0:
        return "They do not differ so far."
    if needed is None:
        return "Even a thousand seeds would hardly separate them on these test examples; more examples might."
    more = "more `seeds` in the sweep file and the same command again add them"
    return f"If that difference is real, about {needed} seeds would separate them; {more}."


Outcome = Literal["best", "tied with", "not enough seeds", "nothing learnt"]

MARGIN = 0.02
"""Methods whose means differ by less than this are equally good: two points of accuracy."""


@dataclass(frozen=True)
class Verdict:
    """`others`: the methods that the leader beats, is tied with, or cannot be distinguished from.

    `seeds_needed`: to distinguish the best two with a power of 0.8, if their difference is as observed; None where they
    are distinguished already, and where the number is unknown or out of reach.
    """

    outcome: Outcome
    metric: str
    leader: str
    others: tuple[str, ...]
    seeds_needed: int | None
    text: str


def decide(metric: str, ranking: Sequence[str], comparisons: Sequence[Comparison]) -> Verdict:
    """The verdict on methods.

    A leader is best if the uncorrected two-sided test against every other method says so. That none but the leader is
    claimed to be best, and against all others at once, is what makes a correction needless: where the best are equal,
    the claim is wrong in no more than the level of cases (Gutmann and Maymin 1987; Hung and Fithian 2019).

    Args:
        ranking: two methods or more, the best mean first.
        comparisons: of this metric, corrected; pairs without two common seeds are missing.
    """
    leader, *rest = ranking
    of = {rival: _between(leader, rival, comparisons) for rival in rest}
    behind = [rival for rival, pair in of.items() if _leads(pair, leader) and pair.separated]
    if len(behind) == len(rest):
        return Verdict("best", metric, leader, tuple(rest), None, best_text(metric, leader, rest, of[rest[0]]))
    like = [rival for rival, pair in of.items() if not (_leads(pair, leader) and pair.different)]
    undecided = [rival for rival in like if not _equivalent(of[rival])]
    beaten = [rival for rival in rest if rival not in like]
    if not undecided:
        text = tied_text(metric, leader, like, beaten, MARGIN)
        return Verdict("tied with", metric, leader, tuple(like), None, text)
    closest = of[next((rival for rival in undecided if rival not in behind), undecided[0])]
    needed = seeds_needed(closest)
    text = open_text(metric, leader, undecided, beaten, closest, needed, len(ranking))
    return Verdict("not enough seeds", metric, leader, tuple(undecided), needed, text)


def seeds_needed(comparison: Comparison | None) -> int | None:
    """Seeds at which a paired t-test detects the observed difference, given the observed spread, with a power of 0.8.

    The seeds' part of the squared standard error falls with their number, the examples' part stays. None without a
    difference or a spread, and beyond 1000.
    """
    if comparison is None or comparison.difference == 0:
        return None
    spread, stays = comparison.seed_error**2 * comparison.seeds, comparison.example_error**2
    if spread + stays == 0:
        return None
    low, high = LEAST_SEEDS, MOST_SEEDS + 1
    while low < high:
        middle = (low + high) // 2
        enough = _power(comparison.difference, spread / middle, stays, middle) >= POWER
        low, high = (low, middle) if enough else (middle + 1, high)
    return low if low <= MOST_SEEDS else None


def detectable(comparison: Comparison) -> float | None:
    """The difference that these seeds and examples find with a power of 0.8; None without a spread."""
    by_seeds, by_examples = comparison.seed_error**2, comparison.example_error**2
    if by_seeds + by_examples == 0:
        return None
    low, high = 0.0, 100 * math.sqrt(by_seeds + by_examples)
    for _ in range(30):
        middle = (low + high) / 2
        enough = _power(middle, by_seeds, by_examples, comparison.seeds) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def _power(difference: float, by_seeds: float, by_examples: float, seeds: int) -> float:
    """The power of a two-sided test; the squared errors are for this number of seeds."""
    freedom = degrees_of_freedom(math.sqrt(by_seeds), math.sqrt(by_examples), seeds)
    tests = ((by_seeds, seeds - 1), (by_seeds + by_examples, freedom))
    return min(power_of_t(abs(difference), math.sqrt(error), of, LEVEL) for error, of in tests if error)


def _leads(comparison: Comparison | None, leader: str) -> TypeGuard[Comparison]:
    """Means are over each method's own seeds, comparisons over common ones: both must favour the leader."""
    if comparison is None:
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
