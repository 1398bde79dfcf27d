"""Scores made of the weight alone: magnitude, and SaRA, which reselects the smallest once."""

import torch
from torch import Tensor

from gallop_ray.methods.contract import MaskMethod, MatrixState, RefreshedMethod
from gallop_ray.sparse.topk import largest


class Magnitude(MaskMethod):
    """The largest |w|, or the smallest."""

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        return weight.abs().float() if self.spec.choose == "highest" else smallness(weight)


class Sara(RefreshedMethod):
    """The k smallest |w| of all matrices; once, in the middle, the smallest of each matrix again (arXiv 2409.06633).

    SaRA's threshold is the k-th smallest |w| here, so that every method trains as many entries. Entries that have
    outgrown it are replaced by the next smallest and keep what they have learnt.
    """

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        return smallness(weight)

    def refreshes_after(self, step: int, steps: int) -> bool:
        return step == max(1, round(self.spec.refresh_at * steps)) and step < steps

    def refresh(self, state: MatrixState) -> Tensor:
        return largest(smallness(state.weight), state.indices.numel())


def smallness(weight: Tensor) -> Tensor:
    """A score that is larger the smaller |w| is, and tells apart all that float32 does: float32, non-negative.

    1 / |w| would overflow, and rounding would make ties; so the bit pattern is counted down from infinity's instead,
    which keeps the order exactly.
    """
    bits = weight.abs().float().view(torch.int32)
    return (0x7F7FFFFF - bits).clamp_(min=0).view(torch.float32)
