"""Random masks: the baseline for every score."""

import torch
from torch import Tensor

from gallop_ray.methods.contract import MaskMethod


class Random(MaskMethod):
    """score ~ Uniform[0, 1), from the run's seed and the matrix's name."""

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """Uniform[0, 1): float32 in the weight's shape."""
        return uniform(weight, generator)


def uniform(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Scores of a matrix ~ Uniform[0, 1): float32 (out, in)."""
    # Drawn on the generator's device, the CPU: a GPU would draw other numbers from the same seed.
    return torch.rand(weight.shape, generator=generator, device=generator.device).to(weight.device)
