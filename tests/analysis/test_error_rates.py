"""How often a verdict on several methods errs, and how often it finds a difference: simulated studies."""

from itertools import combinations

import numpy as np
import pytest

from gallop_ray.analysis.comparison import Side, compare, corrected
from gallop_ray.analysis.verdict import Verdict, decide

pytestmark = pytest.mark.slow
STUDIES, SEEDS = 2000, 5
CHANCE = 0.01  # twice the standard deviation of a share of 0.05 in so many studies


def study(draw: np.random.Generator, methods: int, best: int, behind: float, examples: int, of_seed: float) -> Verdict:
    """The first `best` methods are equal, and so much better than the others.

    Examples are of different difficulty and suit the one method or the other; a seed does something to all methods and
    something to each; answers fall by chance.
    """
    difficulty, common = draw.uniform(0.35, 0.65, examples), 0.03 * draw.normal(size=SEEDS)
    sides = []
    for method in range(methods):
        suits = difficulty + draw.uniform(-0.05, 0.05, examples) - (behind if method >= best else 0.0)
        shares = suits + (common + of_seed * draw.normal(size=SEEDS))[:, None]
        right = (draw.random((SEEDS, examples)) < shares).astype(float)
        by_seed = dict(enumerate(right.mean(1).tolist()))
        sides.append(Side(str(method), str(method), by_seed, {seed: {"t": right[seed]} for seed in range(SEEDS)}))
    sides.sort(key=lambda side: -sum(side.by_seed.values()))
    found = corrected([each for two in combinations(sides, 2) if (each := compare("id_accuracy", *two))])
    return decide("id_accuracy", [side.method for side in sides], found)


@pytest.mark.parametrize(
    ("methods", "best", "of_seed"), [(2, 2, 0.08), (4, 2, 0.08), (4, 2, 0.02), (4, 4, 0.08), (6, 3, 0.08)]
)
def test_a_best_among_equals_is_named_in_one_study_of_twenty_at_most(methods: int, best: int, of_seed: float) -> None:
    """Two equal ones far ahead of the others are the worst case: then only one test stands in the way."""
    draw = np.random.default_rng(1)
    called = [study(draw, methods, best, 0.2, 300, of_seed).outcome for _ in range(STUDIES)]
    assert called.count("best") <= (0.05 + CHANCE) * STUDIES


def test_six_points_among_four_methods_are_found_by_five_seeds() -> None:
    """2,000 examples, and seeds with a standard deviation of one point."""
    draw = np.random.default_rng(2)
    called = [study(draw, 4, 1, 0.06, 2000, 0.01) for _ in range(STUDIES // 4)]
    found = [(each.outcome, each.leader) for each in called].count(("best", "0"))
    assert found >= 0.95 * STUDIES // 4
    assert not [each for each in called if each.outcome == "best" and each.leader != "0"]
