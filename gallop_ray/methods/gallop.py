"""GaLLoP: gradient-based sparse learning on low-magnitude parameters (arXiv 2510.19778)."""

import torch
from torch import Tensor

from gallop_ray.methods.contract import MaskMethod
from gallop_ray.sparse.topk import EXCLUDED
from gallop_ray.spec.methods import GallopSpec


class Gallop(MaskMethod):
    """score = |g| / (|w| + eps), g the signed mean gradient over the selection examples at the pre-trained weights.

    Exactly-zero weights would win by 1 / eps whatever their gradient; zero_guard `exclude` drops |w| <= eps, `none` is
    the formula as published.
    """

    needs_gradients = True

    def __init__(self, spec: GallopSpec) -> None:
        self.spec = spec
        self.selection_ratio = spec.selection_ratio

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        assert gradient is not None
        magnitude = weight.abs().float()
        excluded = magnitude <= self.spec.eps if self.spec.zero_guard == "exclude" else None
        score = gradient.abs_().div_(magnitude.add_(self.spec.eps))
        return score if excluded is None else score.masked_fill_(excluded, EXCLUDED)
