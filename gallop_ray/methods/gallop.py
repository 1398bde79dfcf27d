"""GaLLoP: gradient-based sparse learning on low-magnitude parameters (arXiv 2510.19778)."""

import torch
from torch import Tensor

from gallop_ray.methods.contract import MaskMethod
from gallop_ray.sparse.topk import EXCLUDED


class Gallop(MaskMethod):
    """score = |g|^a / (|w| + eps)^b, g the signed mean gradient over the selection examples at the base weights.

    a = b = 1 is GaLLoP, b = 0 is SAFT. Exactly-zero weights would win by 1 / eps^b whatever their gradient; zero_guard
    `exclude` drops |w| <= eps, `none` is the formula as published.
    """

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """float32 in the weight's shape; overwrites the gradient."""
        assert gradient is not None
        spec, magnitude = self.spec, weight.abs().float()
        excluded = magnitude <= spec.eps if spec.zero_guard == "exclude" else None
        magnitude.add_(spec.eps)
        score = gradient.abs_().pow_(spec.gradient_exponent).div_(magnitude.pow_(spec.magnitude_exponent))
        return score if excluded is None else score.masked_fill_(excluded, EXCLUDED)
