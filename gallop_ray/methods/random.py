"""Random masks: the baseline that every score has to beat."""

import torch
from torch import Tensor

from gallop_ray.methods.contract import MaskMethod


class Random(MaskMethod):
    """score ~ Uniform[0, 1), from the run's seed and the matrix's name."""

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        return uniform(weight, generator)


def uniform(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Scores of a matrix ~ Uniform[0, 1): float32 (out, in)."""
    return torch.rand(weight.shape, generator=generator, device=generator.device).to(weight.device)
