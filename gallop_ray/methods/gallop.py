"""Large gradients on small weights: GaLLoP (arXiv 2510.19778) and GEM (arXiv 2508.16191)."""

import torch
from torch import Tensor

from gallop_ray.methods.contract import MaskMethod
from gallop_ray.sparse.competition import Spread
from gallop_ray.sparse.topk import EXCLUDED


class Gallop(MaskMethod):
    """score = |g|^a / (|w| + eps)^b, g the signed mean gradient over the selection examples at the base weights.

    a = b = 1 is GaLLoP, b = 0 is SAFT. Exactly-zero weights would win by 1 / eps^b whatever their gradient; zero_guard
    `exclude` drops |w| <= eps, `none` is the formula as published.
    """

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """float32 in the weight's shape; overwrites the gradient."""
        return self._ratio(weight, gradient, self.spec.gradient_exponent, self.spec.magnitude_exponent)

    def _ratio(self, weight: Tensor, gradient: Tensor | None, above: float, below: float) -> Tensor:
        assert gradient is not None
        spec, magnitude = self.spec, weight.abs().float()
        excluded = magnitude <= spec.eps if spec.zero_guard == "exclude" else None
        magnitude.add_(spec.eps)
        score = gradient.abs_().pow_(above).div_(magnitude.pow_(below))
        return score if excluded is None else score.masked_fill_(excluded, EXCLUDED)


class Gem(Gallop):
    """score = |g| / (|w| + eps); a matrix's share of the entries is proportional to ||r|| H of its scores r.

    H is the entropy of r / sum(r). The authors' module begins with twice the chosen weights, for it adds a copy of them
    to themselves; this one begins at the base.
    """

    @property
    def spread(self) -> Spread:  # type: ignore[override]
        """From the options."""
        variant: Spread = self.spec.variant
        return variant

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """float32 in the weight's shape; overwrites the gradient."""
        return self._ratio(weight, gradient, 1, 1)
