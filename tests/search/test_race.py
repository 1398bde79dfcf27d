"""The race at rungs in simulated sweeps: how often it stops one of equals, and how often one that is worse."""

from collections.abc import Callable

import numpy as np
import pytest

from gallop_ray.search.rungs import AtRung, allowance, worse_than_best

pytestmark = pytest.mark.slow
CONFIGURATIONS, LOOKS, EXAMPLES = 12, 3, 128
WEIGHTS = {"task": 1.0}
LIMIT = allowance(0.05, LOOKS, CONFIGURATIONS)
Losses = Callable[[np.random.Generator, float], np.ndarray]


def normal(dice: np.random.Generator, worse: float) -> np.ndarray:
    """Of one configuration: its examples' losses beside what all share, with a standard deviation of 1."""
    return dice.normal(worse, 1, EXAMPLES)


def skewed(dice: np.random.Generator, worse: float) -> np.ndarray:
    """The same with a long tail to the right, as losses have."""
    return dice.gamma(0.5, np.sqrt(2), EXAMPLES) + worse


def race(seed: int, losses: Losses, worse: float = 0.0) -> set[int]:
    """The configurations that a simulated race stops; the last of them is worse by so much, the others are equal.

    They come to each rung in another order, and what they lose there depends on the rung before.
    """
    dice = np.random.default_rng(seed)
    common, running = dice.gamma(1, 1, EXAMPLES), list(range(CONFIGURATIONS))
    mine = [losses(dice, worse * (n == CONFIGURATIONS - 1)) for n in range(CONFIGURATIONS)]
    stopped: set[int] = set()
    for _ in range(LOOKS):
        new = [losses(dice, worse * (n == CONFIGURATIONS - 1)) for n in range(CONFIGURATIONS)]
        mine = [0.7 * old + 0.3 * now for old, now in zip(mine, new, strict=True)]
        there: list[AtRung] = []
        for n in dice.permutation(running):
            found = [*map(float, common + mine[n])]
            here = AtRung(f"gallop-{n}", 10, float(np.mean(found)), {"task": found})
            if worse_than_best(here, there, WEIGHTS, LIMIT):
                stopped.add(int(n))
            there.append(here)
        running = [n for n in running if n not in stopped]
    return stopped


@pytest.mark.parametrize("losses", [pytest.param(normal, marks=pytest.mark.long), skewed])
def test_of_equal_configurations_at_most_a_twentieth_of_races_stops_one(losses: Losses) -> None:
    stopped = sum(bool(race(seed, losses)) for seed in range(200))
    assert stopped <= 0.05 * 200


def test_one_that_is_worse_is_stopped_and_no_other() -> None:
    ends = [race(seed, normal, worse=0.4) for seed in range(40)]
    assert sum(CONFIGURATIONS - 1 in each for each in ends) >= 0.9 * 40
    assert sum(bool(each - {CONFIGURATIONS - 1}) for each in ends) <= 0.05 * 40
