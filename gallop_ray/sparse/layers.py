"""Layers whose backward pass forms one weight gradient dW at a time and keeps its chosen entries, or passes it on.

Forward is the plain computation with the frozen weight, into which the delta has already been written.
"""

import sys
from collections.abc import Callable, Mapping
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
            chosen = layer.pass_on(chosen_gradient(x, grads[0], layer.indices))
        else:
            chosen = layer.choose(weight_gradient(x, grads[0]))
        return grad_x, None, None, chosen.to(layer.values.dtype), None


class ChosenEntries:
    """The chosen entries of one weight of a layer, the only ones that are trained.

    `values` (k,) holds the entries at `indices` themselves, in the weight's dtype. Forward never reads it; backward
    gives it the chosen entries of dW. After each optimizer step the caller writes the new values into the weight.
    """

    weight: nn.Parameter
    values: nn.Parameter
    indices: Tensor
    holder: nn.Module
    """The layer that registers them as parameter and buffer."""
    names: tuple[str, str]
    """The names of the weight and the values in that layer."""
    had_gradient = False
    """Whether a backward pass has reached this layer."""
    take: Callable[[Tensor], None] | None = None
    """Called with each backward pass's dW, in the weight's shape; may keep it or change it in place."""
    take_chosen: Callable[[Tensor], None] | None = None
    """Called with the chosen entries (k,) of each backward pass's dW, not to be changed."""

    def choose(self, dense: Tensor) -> Tensor:
        """The chosen entries (k,) of `dense`, dW in the weight's shape."""
        chosen = self.pass_on(dense.view(-1)[self.indices])
        if self.take is not None:
            self.take(dense)  # after the choice: it may add the other ranks' gradients in place
        return chosen

    def pass_on(self, chosen: Tensor) -> Tensor:
        """The chosen entries themselves, after whoever takes them has had them."""
        self.had_gradient = True
        if self.take_chosen is not None:
            self.take_chosen(chosen)
        return chosen

    def release(self) -> None:
        """Free the tensors. Under ZeRO-3 closures inside DeepSpeed keep detached layers alive."""
        stored = getattr(self.values, "ds_tensor", self.values)
        stored.data = stored.new_empty(0)
        self.values.grad = None
        self.indices = self.indices.new_empty(0)
        self.take = self.take_chosen = None


class SparseLayer(nn.Module, ChosenEntries):
    """A layer in which only the entries of the weight at `indices` are trained."""

    names = ("weight", "values")

    def __init__(self, inner: nn.Module, indices: Tensor, values: Tensor) -> None:
        super().__init__()
        take_over(self, inner)
        # A buffer, to move with the model, but not persistent: state_dict() is to be the plain model's.
        self.register_buffer("indices", indices, persistent=False)
        self.values = nn.Parameter(values)

    @property
    def holder(self) -> nn.Module:  # type: ignore[override]
        """Itself."""
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped layer's output, with the frozen weight."""
        return with_weights(self, {"weight": spliced(self)}, args, kwargs)


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


def is_linear_map(module: nn.Module) -> bool:
    """Whether it computes a matrix product plus a bias, such as GPT-2's Conv1D with its weight (in, out)."""
    return is_plain_linear(module) or is_stored_transposed(module) or _computes_product(module)


def is_stored_transposed(module: nn.Module) -> bool:
    """Whether it is GPT-2's Conv1D, a linear layer with its weight (in, out)."""
    # Where a model has one, its class has been imported; transformers is not needed for any other.
    return isinstance(module, getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", ()))


def _computes_product(module: nn.Module) -> bool:
    """Whether a subclass of nn.Linear with its own forward (Falcon's) computes x W^T + b, tried on a small one."""
    if not isinstance(module, nn.Linear):
        return False
    x, weight = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[3.0, 5.0], [-7.0, 0.5], [2.0, 1.0]])
    small = {"weight": weight} if module.bias is None else {"weight": weight, "bias": torch.tensor([11.0, -13.0, 4.0])}
    try:
        with torch.no_grad():
            found = functional_call(module, small, (x,))
    except Exception:  # a router may ask for more than x, or choose among more outputs than there are
        return False
    return isinstance(found, Tensor) and torch.equal(found, F.linear(x, **small))


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

    weight: nn.Parameter

    def __init__(self, inner: nn.Module, take: Callable[[Tensor], None]) -> None:
        super().__init__()
        take_over(self, inner)
        self._take = take

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped layer's output, with the frozen weight."""
        return with_weights(self, {"weight": scored(self.weight, self._take)}, args, kwargs)


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


def take_over(layer: nn.Module, inner: nn.Module) -> None:
    """Register the parameters of `inner` on `layer`, so that DeepSpeed and walks over the model see them once."""
    for name, parameter in inner.named_parameters(recurse=False):
        layer.register_parameter(name, parameter)
    if getattr(inner, "bias", None) is None:
        layer.register_parameter("bias", None)
    layer.__dict__["inner"] = inner  # not as a submodule: its parameters would be listed a second time


def with_weights(layer: nn.Module, weights: Mapping[str, Tensor], args: Any, kwargs: Any) -> Any:
    """The output of the layer's inner module with these weights in place of its own."""
    inner: nn.Module = layer.__dict__["inner"]
    own = {name: getattr(layer, name) for name, _ in inner.named_parameters(recurse=False)}
    return functional_call(inner, {**own, **weights}, args, kwargs)


def spliced(entries: ChosenEntries) -> Tensor:
    """The identity on the weight; its gradient goes to the chosen values."""
    weight: Tensor = _SplicedWeight.apply(entries.weight, entries.values, entries)  # type: ignore[no-untyped-call]
    return weight


def scored(weight: Tensor, take: Callable[[Tensor], None]) -> Tensor:
    """The identity on the weight; its gradient goes to `take`."""
    passed: Tensor = _ScoredWeight.apply(weight, _anchor(), take)  # type: ignore[no-untyped-call]
    return passed


class _SplicedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: Tensor, entries: ChosenEntries) -> Tensor:
        ctx.entries = entries
        return weight.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        entries: ChosenEntries = ctx.entries
        # contiguous: an embedding's or a norm's gradient may be expanded or transposed, and choose() views it flat.
        return None, entries.choose(grads[0].contiguous()).to(entries.values.dtype), None


class _ScoredWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, anchor: Tensor, take: Callable[[Tensor], None]) -> Tensor:
        ctx.take = take
        return weight.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.take(grads[0].contiguous())
        return None, None, None
