"""Random masks: the baseline that every score has to beat."""

import torch
from torch import Tensor

from gallop_ray.methods.contract import MaskMethod
from gallop_ray.spec.methods import RandomSpec


class Random(MaskMethod):
    """score ~ Uniform[0, 1), from the run's seed and the matrix's name."""

    needs_gradients = False

    def __init__(self, spec: RandomSpec) -> None:
        self.spec = spec

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        return torch.rand(weight.shape, generator=generator, device=generator.device).to(weight.device)
