"""How the best learning rate depends on the density, from what a sweep has run.

The objective is fitted by a quadratic surface over x = log(learning rate) and z = log(density),
y = b0 + b1 x + b2 x^2 + b3 z + b4 z^2 + b5 x z, by least squares. At each density its best learning rate is
x = -(b1 + b5 z) / (2 b2), so that the best rate is proportional to density^a with a = -b5 / (2 b2). The interval of
this ratio is Fieller's: it is unbounded where the data do not show that there is a best rate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

_LEAST = 10
"""Configurations, of which six coefficients leave four to tell how far off they are."""
_VALUES = 3
"""Densities and learning rates that a quadratic surface takes at least."""


@dataclass(frozen=True)
class Point:
    """A configuration: its learning rate, its density, and the objective's mean over seeds."""

    rate: float
    density: float
    value: float


@dataclass(frozen=True)
class RateLaw:
    """The best learning rate is times x density^exponent.

    `low`, `high`: the 95 % interval of the exponent, None where it has no end. `surface`: b0 to b5.
    """

    exponent: float
    low: float | None
    high: float | None
    times: float
    configurations: int
    surface: tuple[float, ...]

    def best(self, density: Any) -> Any:
        """The best learning rate at a density; of an array elementwise."""
        return self.times * density**self.exponent

    def value(self, rate: Any, density: Any) -> Any:
        """The fitted objective; of arrays elementwise."""
        return _terms(np.log(rate), np.log(density)) @ np.array(self.surface)

    def __str__(self) -> str:
        what = f"the best learning rate goes as density^{self.exponent:.2f}"
        if self.low is None or self.high is None:
            return f"{what}, but {self.configurations} configurations do not tell how exactly"
        return (
            f"{what} (95 % interval {self.low:.2f} to {self.high:.2f}, {self.configurations} configurations); as a law "
            f"to search, training.density_exponent: {self.exponent:.2f} with learning_rate {self.times:.2g}"
        )


def fitted(points: Sequence[Point], maximize: bool) -> RateLaw | None:
    """The law of one method; None for too few points, and where the surface has no best rate."""
    x, z = (np.log([getattr(each, of) for each in points]) for of in ("rate", "density"))
    if len(points) < _LEAST or min(len(np.unique(each.round(3))) for each in (x, z)) < _VALUES:
        return None
    y, terms = np.array([each.value for each in points]), _terms(x, z)
    if np.linalg.matrix_rank(terms) < terms.shape[1]:
        return None
    surface, *_ = np.linalg.lstsq(terms, y, rcond=None)
    if (surface[2] < 0) != maximize or surface[2] == 0:
        return None
    exponent = -surface[5] / (2 * surface[2])
    low, high = _fieller(surface, terms, y - terms @ surface)
    times = math.exp(-surface[1] / (2 * surface[2]))
    return RateLaw(float(exponent), low, high, times, len(points), tuple(map(float, surface)))


def _terms(x: Any, z: Any) -> Any:
    return np.stack([np.ones_like(x), x, x**2, z, z**2, x * z], axis=-1)


def _fieller(surface: Any, terms: Any, residuals: Any) -> tuple[float, float] | tuple[None, None]:
    """Fieller's 95 % interval of -b5 / (2 b2): the a for which b5 + 2 a b2 is not told from 0."""
    free = len(terms) - terms.shape[1]
    covariance = np.linalg.inv(terms.T @ terms) * float(residuals @ residuals) / free
    t2 = float(stdtrit(free, 0.975)) ** 2
    b2, b5 = 2 * surface[2], surface[5]
    v22, v55, v25 = 4 * covariance[2, 2], covariance[5, 5], 2 * covariance[2, 5]
    a, b, c = b2**2 - t2 * v22, 2 * (b2 * b5 - t2 * v25), b5**2 - t2 * v55
    inside = b**2 - 4 * a * c
    if a <= 0 or inside < 0:
        return None, None
    roots = sorted((-b + sign * math.sqrt(inside)) / (2 * a) for sign in (-1, 1))
    return float(roots[0]), float(roots[1])
