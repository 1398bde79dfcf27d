"""Scores of pruning, to choose what to train: Fisher, Taylor, skeletonization, Wanda, GraSP, SynFlow, LT-SFT."""

import torch
from torch import Tensor

from gallop_ray.methods.contract import MaskMethod


class Fisher(MaskMethod):
    """score = mean of g_i^2 over the examples i, g_i an example's own gradient (FISH Mask, arXiv 2111.09839).

    With the labels of the data, which the paper calls the empirical Fisher information.
    """

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """The mean squares themselves: float32 in the weight's shape."""
        assert gradient is not None
        return gradient


class Taylor(MaskMethod):
    """score = mean of (w g_i)^2 over the examples i (arXiv 1906.10771, there over mini-batches)."""

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """float32 in the weight's shape; overwrites the mean squares."""
        assert gradient is not None
        return gradient.mul_(weight.float().square())


class Skeleton(MaskMethod):
    """score = max(0, -w g): by how much the loss would rise, to first order, if the entry were 0.

    Mozer and Smolensky's relevance (1989), on entries instead of units, for the signed mean gradient g.
    """

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """float32 in the weight's shape; overwrites the gradient."""
        assert gradient is not None
        return gradient.mul_(weight).neg_().clamp_(min=0).abs_()  # abs: -0.0 would count as negative


class Wanda(MaskMethod):
    """score = |w| ||x||, x the entry's input at all tokens of the examples (arXiv 2306.11695)."""

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """float32 (out, in); overwrites the mean squares of the inputs, which are the same in every row."""
        assert gradient is not None
        return gradient.sqrt_().mul_(weight.abs().float())


class Grasp(MaskMethod):
    """score = max(0, w (H g)), H the Hessian of the mean loss and g its gradient (GraSP, arXiv 2002.07376)."""

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """float32 in the weight's shape; overwrites H g."""
        assert gradient is not None
        return gradient.mul_(weight).clamp_(min=0).abs_()  # abs: -0.0 would count as negative


class Synflow(MaskMethod):
    """score = |w dR/d|w||, R the sum of the outputs of |w| for an input of ones (arXiv 2006.05467)."""

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """float32 in the weight's shape; overwrites dR/d|w|, which norms make negative in places."""
        assert gradient is not None
        return gradient.mul_(weight).abs_()


class LtSft(MaskMethod):
    """score = |change| after full fine-tuning, which is then undone (LT-SFT, arXiv 2110.07560)."""

    @property
    def full_steps(self) -> int | None:
        """From the options."""
        return self.spec.warmup_steps or 0

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """float32 in the weight's shape; overwrites the change."""
        assert gradient is not None
        return gradient.abs_()
