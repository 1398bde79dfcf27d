"""Linear layers that, on the way back, form dW of one layer at a time and drop it.

Forward is the plain matmul with the frozen weight, into which the delta has already been written.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """dW (out, in) of y = x W^T from x (..., in) and dy (..., out)."""
    return grad.reshape(-1, grad.shape[-1]).t() @ x.reshape(-1, x.shape[-1])


class _SparseMatmul(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor, layer: "SparseLinear"
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layer = layer
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grads[0] @ weight if ctx.needs_input_grad[0] else None
        return grad_x, None, None, ctx.layer.gradient(_weight_gradient(x, grads[0]), weight), None


class SparseLinear(nn.Module):
    """A linear layer in which only the entries at `indices` are trained.

    `values` (k,) holds the chosen entries themselves, in the weight's dtype; forward never reads it, backward gives it
    the chosen entries of dW. Whoever steps the optimizer writes the new values into the weight.
    """

    indices: Tensor

    def __init__(self, linear: nn.Linear, indices: Tensor, values: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer("indices", indices, persistent=False)
        self.values = nn.Parameter(values)
        self.take: Callable[[Tensor], None] | None = None
        """Is handed each backward pass's dW (out, in), to keep or to change."""
        self.pull: tuple[float, Tensor] | None = None
        """Strength of an L2 penalty on the delta, and the base values (k,) that the entries are pulled to."""

    def gradient(self, dense: Tensor, weight: Tensor) -> Tensor:
        """The gradient (k,) of `values` from dW (out, in)."""
        chosen = dense.view(-1)[self.indices]
        if self.pull is not None:
            strength, base = self.pull
            chosen += strength * (weight.view(-1)[self.indices] - base)
        if self.take is not None:
            self.take(dense)
        return chosen

    def release(self) -> None:
        """Give the memory back. Under ZeRO-3 DeepSpeed's closures keep layers alive that nobody else knows."""
        stored = getattr(self.values, "ds_tensor", self.values)
        stored.data = stored.new_empty(0)
        self.values.grad = None
        self.indices = self.indices.new_empty(0)
        self.take = self.pull = None

    def forward(self, x: Tensor) -> Tensor:
        """y = x W^T + b for x (..., in)."""
        return _SparseMatmul.apply(x, self.weight, self.bias, self.values, self)  # type: ignore[no-any-return,no-untyped-call]


class _ScoreMatmul(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, anchor: Tensor, take: Callable[[Tensor], None]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.take = take
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        ctx.take(_weight_gradient(x, grads[0]))
        return grads[0] @ weight if ctx.needs_input_grad[0] else None, None, None, None, None


class ScoreLinear(nn.Module):
    """A linear layer with nothing to train that hands each backward pass's dW (out, in) to `take`."""

    def __init__(self, linear: nn.Linear, take: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.weight, self.bias, self._take = linear.weight, linear.bias, take

    def forward(self, x: Tensor) -> Tensor:
        """y = x W^T + b for x (..., in)."""
        # Something must ask for a gradient, or autograd would skip the layer; the anchor does, and never receives one.
        anchor = torch.empty(0, requires_grad=True)
        return _ScoreMatmul.apply(x, self.weight, self.bias, anchor, self._take)  # type: ignore[no-any-return,no-untyped-call]
