"""The law of learning rate and density: planted laws are found, and intervals hold what they say."""

import numpy as np
import pytest

from gallop_ray.analysis.rate_law import Point, RateLaw, fitted


def planted(exponent: float, noise: float, count: int, seed: int, curvature: float = 0.05) -> list[Point]:
    """Configurations at random whose best rate is 2e-4 x density^exponent."""
    draws = np.random.default_rng(seed)
    densities, rates = 10 ** draws.uniform(-4, -1, count), 10 ** draws.uniform(-5, -1, count)
    off = np.log(rates) - np.log(2e-4 * densities**exponent)
    values = 0.7 - curvature * off**2 + 0.02 * np.log(densities) + noise * draws.standard_normal(count)
    return [Point(*each) for each in zip(rates.tolist(), densities.tolist(), values.tolist(), strict=True)]


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 0.3])
def test_a_planted_law_is_found_exactly(exponent: float) -> None:
    law = fitted(planted(exponent, 0.0, 16, 0), maximize=True)
    assert law is not None
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert law.times == pytest.approx(2e-4)
    assert law.best(0.01) == pytest.approx(2e-4 * 0.01**exponent)
    assert float(law.value(2e-4, 1.0)) == pytest.approx(0.7)


def test_a_loss_has_its_best_rate_where_it_is_lowest() -> None:
    losses = [Point(each.rate, each.density, -each.value) for each in planted(-0.5, 0.0, 16, 0)]
    law = fitted(losses, maximize=False)
    assert law is not None
    assert law.exponent == pytest.approx(-0.5, abs=1e-9)
    assert fitted(losses, maximize=True) is None, "its surface has no highest point"


def test_the_interval_holds_the_truth_in_95_of_100_sweeps() -> None:
    laws = [fitted(planted(-0.5, 0.1, 24, seed), maximize=True) for seed in range(400)]
    found = [law for law in laws if law is not None]
    assert len(found) > 390
    held = sum(law.low is None or law.high is None or law.low <= -0.5 <= law.high for law in found)
    assert 0.92 * len(found) <= held <= 0.98 * len(found)
    assert sum(law.low is not None for law in found) > 390, "they have ends"


def test_an_interval_without_ends_is_said() -> None:
    laws = [fitted(planted(-0.5, 0.5, 12, seed, curvature=0.001), maximize=True) for seed in range(20)]
    unknown = [law for law in laws if law is not None and law.low is None]
    assert unknown
    assert "do not tell how exactly" in str(unknown[0])


def test_too_few_configurations_or_values_give_no_law() -> None:
    points = planted(-0.5, 0.0, 16, 0)
    assert fitted(points[:9], maximize=True) is None
    assert fitted([Point(each.rate, 0.01, each.value) for each in points], maximize=True) is None
    two = [Point(each.rate, 0.01 if each.density < 0.01 else 0.1, each.value) for each in points]
    assert fitted(two, maximize=True) is None
    along = [Point(2e-4 * each.density, each.density, each.value) for each in points]
    assert fitted(along, maximize=True) is None, "rates that follow densities say nothing of both apart"


def test_a_law_says_how_to_search_it() -> None:
    law = RateLaw(-0.5, -0.6, -0.4, 2e-4, 24, ())
    assert str(law) == (
        "the best learning rate goes as density^-0.50 (95 % interval -0.60 to -0.40, 24 configurations); as a law to "
        "search, training.density_exponent: -0.50 with learning_rate 0.0002"
    )
