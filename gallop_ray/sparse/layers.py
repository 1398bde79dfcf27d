"""Layers whose backward pass forms one weight gradient dW at a time and keeps its chosen entries, or passes it on.

Forward is the plain computation with the frozen weight, into which the delta has already been written.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from gallop_ray.sparse.weight_gradient import chosen_gradient, weight_gradient, worth_choosing


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
        layer: SparseLayer = ctx.layer
        # Whoever takes gradients (a refreshed method) needs the whole dW.
        if layer.take is None and worth_choosing(weight, layer.indices):
            layer.had_gradient = True
            chosen = chosen_gradient(x, grads[0], layer.indices)
        else:
            chosen = layer.choose(weight_gradient(x, grads[0]))
        return grad_x, None, None, chosen.to(layer.values.dtype), None


class SparseLayer(nn.Module):
    """A layer in which only the entries of the weight at `indices` are trained.

    `values` (k,) holds the chosen entries themselves, in the weight's dtype. Forward never reads it; backward gives it
    the chosen entries of dW. After each optimizer step the caller writes the new values into the weight.
    """

    indices: Tensor
    weight: nn.Parameter

    def __init__(self, inner: nn.Module, indices: Tensor, values: Tensor) -> None:
        super().__init__()
        _take_over(self, inner)
        self.register_buffer("indices", indices, persistent=False)
        self.values = nn.Parameter(values)
        self.had_gradient = False
        """Whether a backward pass has reached this layer."""
        self.take: Callable[[Tensor], None] | None = None
        """Called with each backward pass's dW, in the weight's shape; may keep it or change it in place."""

    def choose(self, dense: Tensor) -> Tensor:
        """The chosen entries (k,) of `dense`, dW in the weight's shape."""
        self.had_gradient = True
        chosen = dense.view(-1)[self.indices]
        if self.take is not None:
            self.take(dense)  # after the choice: it may add the other ranks' gradients in place
        return chosen

    def release(self) -> None:
        """Free the tensors. Under ZeRO-3 closures inside DeepSpeed keep detached layers alive."""
        stored = getattr(self.values, "ds_tensor", self.values)
        stored.data = stored.new_empty(0)
        self.values.grad = None
        self.indices = self.indices.new_empty(0)
        self.take = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped layer's output, with the frozen weight."""
        return _with_weight(self, _SplicedWeight.apply(self.weight, self.values, self), args, kwargs)  # type: ignore[no-untyped-call]


class SparseLinear(SparseLayer):
    """A linear layer in which only the entries at `indices` are trained; saves the weight for backward once."""

    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """y = x W^T + b for x (..., in)."""
        return _SparseMatmul.apply(x, self.weight, self.bias, self.values, self)  # type: ignore[no-any-return,no-untyped-call]


def sparse_layer(inner: nn.Module, indices: Tensor, values: Tensor) -> SparseLayer:
    """A layer like `inner` in which only the weight's entries at `indices` are trained."""
    return (SparseLinear if is_plain_linear(inner) else SparseLayer)(inner, indices, values)


def is_plain_linear(module: nn.Module) -> bool:
    """Whether it computes just x W^T + b: a router or a grouped layer may subclass nn.Linear and compute more."""
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


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
        ctx.take(weight_gradient(x, grads[0]))
        return grads[0] @ weight if ctx.needs_input_grad[0] else None, None, None, None, None


class ScoreLayer(nn.Module):
    """A layer without trainable parameters that passes each backward pass's dW, in the weight's shape, to `take`."""

    def __init__(self, inner: nn.Module, take: Callable[[Tensor], None]) -> None:
        super().__init__()
        _take_over(self, inner)
        self._take = take

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped layer's output, with the frozen weight."""
        return _with_weight(self, _ScoredWeight.apply(self.weight, _anchor(), self._take), args, kwargs)  # type: ignore[no-untyped-call]


class ScoreLinear(ScoreLayer):
    """A linear layer that passes each backward pass's dW (out, in) to `take`."""

    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """y = x W^T + b for x (..., in)."""
        return _ScoreMatmul.apply(x, self.weight, self.bias, _anchor(), self._take)  # type: ignore[no-any-return,no-untyped-call]


def score_layer(inner: nn.Module, take: Callable[[Tensor], None]) -> ScoreLayer:
    """A layer like `inner` that passes the gradient of its weight to `take`."""
    return (ScoreLinear if is_plain_linear(inner) else ScoreLayer)(inner, take)


def _anchor() -> Tensor:
    """An input that requires a gradient, or autograd would skip the layer; it never receives one."""
    return torch.empty(0, requires_grad=True)


def _take_over(layer: nn.Module, inner: nn.Module) -> None:
    """Register the parameters of `inner` on `layer`, so that DeepSpeed and walks over the model see them once."""
    for name, parameter in inner.named_parameters(recurse=False):
        layer.register_parameter(name, parameter)
    if getattr(inner, "bias", None) is None:
        layer.register_parameter("bias", None)
    layer.__dict__["inner"] = inner  # not as a submodule: its parameters would be listed a second time


def _with_weight(layer: nn.Module, weight: Tensor, args: Any, kwargs: Any) -> Any:
    whole = {name: p for name, p in layer.named_parameters(recurse=False) if name != "values"}
    return functional_call(layer.__dict__["inner"], {**whole, "weight": weight}, args, kwargs)


class _SplicedWeight(torch.autograd.Function):
    """The identity on the weight; its gradient goes to the chosen values."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: Tensor, layer: SparseLayer) -> Tensor:
        ctx.layer = layer
        return weight.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer: SparseLayer = ctx.layer
        # contiguous: an embedding's or a norm's gradient may be expanded or transposed, and choose() views it flat.
        return None, layer.choose(grads[0].contiguous()).to(layer.values.dtype), None


class _ScoredWeight(torch.autograd.Function):
    """The identity on the weight; its gradient goes to `take`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, anchor: Tensor, take: Callable[[Tensor], None]) -> Tensor:
        ctx.take = take
        return weight.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.take(grads[0].contiguous())
        return None, None, None
