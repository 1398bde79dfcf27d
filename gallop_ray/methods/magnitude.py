"""Scores based on the weight alone: magnitude, and SaRA, which reselects the smallest once."""

import torch
from torch import Tensor

from gallop_ray.methods.contract import MaskMethod, MatrixState, RefreshedMethod
from gallop_ray.sparse.topk import largest


class Magnitude(MaskMethod):
    """The largest |w|, or the smallest."""

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """|w| or smallness(w): float32 in the weight's shape."""
        return weight.abs().float() if self.spec.choose == "highest" else smallness(weight)


class Sara(RefreshedMethod):
    """The k smallest |w| of all matrices; reselected once in mid-run, per matrix (arXiv 2409.06633).

    SaRA's threshold is the k-th smallest |w| here, so that every method trains the same number of entries. Entries that
    have outgrown it are replaced by the next smallest and keep what they have learnt.
    """

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """smallness(w): float32 in the weight's shape."""
        return smallness(weight)

    def refreshes_after(self, step: int, steps: int) -> bool:
        """Once, after the share `refresh_at` of the steps."""
        return step == max(1, round(self.spec.refresh_at * steps)) and step < steps

    def refresh(self, state: MatrixState) -> Tensor:
        """The smallest entries of the weight as trained so far."""
        return largest(smallness(state.weight), state.indices.numel())


def smallness(weight: Tensor) -> Tensor:
    """A score that falls as |w| grows and is distinct for any two float32 values: float32, non-negative.

    1 / |w| would overflow and, by rounding, create ties. Counting the bit pattern down from the largest finite number's
    keeps the order exactly.
    """
    bits = weight.abs().float().view(torch.int32)
    return (0x7F7FFFFF - bits).clamp_(min=0).view(torch.float32)
