"""How many seeds a verdict takes; definitions in docs/statistics.md."""

from scipy.special import nctdtr, stdtrit  # scipy.stats has the same, and takes four times as long to import

from gallop_ray.reporting.comparison import LEAST_SEEDS, LEVEL

POWER = 0.8
MOST_SEEDS = 1000
EFFECT = 2
"""A difference of two methods that is worth finding, in standard deviations of their differences over seeds."""


def power_of_t(difference: float, error: float, freedom: float, level: float) -> float:
    """The power of a two-sided t-test at this level; the true difference and its standard error in the same unit."""
    return 1 - float(nctdtr(freedom, difference / error, stdtrit(freedom, 1 - level / 2)))


def pairs_of(methods: int) -> int:
    """How many pairs the methods make, over all of which p is corrected."""
    return methods * (methods - 1) // 2


def seeds_to_find(methods: int, effect: float = EFFECT) -> int:
    """Seeds that find such a difference between two of the methods with a power of 0.8, by Holm's strictest level."""
    level = LEVEL / max(1, pairs_of(methods))
    seeds = range(LEAST_SEEDS, MOST_SEEDS)
    return next((n for n in seeds if power_of_t(effect, n**-0.5, n - 1, level) >= POWER), MOST_SEEDS)


def seeds_text(methods: int) -> str:
    """What a verdict over so many methods takes."""
    return (
        f"it takes {LEAST_SEEDS} or more, and with {methods} methods {seeds_to_find(methods)} to find a difference of "
        f"{EFFECT} standard deviations over seeds 4 times in 5"
    )
