"""SynFlow's pass: how much each weight carries of the sum of the outputs, with |w| for weights and no data at all.

The input is one position whose embedding is all ones. Activations and attention's softmax are the identity, as in the
code of the comparison in arXiv 2412.13488. Norms are computed, so that no product of magnitudes over many layers
overflows.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gallop_ray.sparse.weights import collective_device, full_shape, local, sum_over_ranks

_ATTENTIONS = ("eager", "sdpa")
_IDENTITIES = {
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.celu, F.selu, F.silu, F.mish, F.gelu, F.softplus, F.logsigmoid),
    *(F.sigmoid, F.tanh, F.hardtanh, F.hardsigmoid, F.hardswish, F.softsign, F.softmax, F.log_softmax),
    *(torch.softmax, Tensor.softmax),
}
"""Not torch.tanh and torch.sigmoid, as there: models use them to cap values and as gates."""


def flow_pass(model: nn.Module, device: torch.device, counted: bool) -> None:
    """A forward and a backward pass of R, the sum of the logits, whose gradients go to whatever captures them.

    counted: whether R counts, or is multiplied by 0. Every rank makes the same pass; the weights are afterwards what
    they were, bit for bit. Raises ValueError for a model that cannot be run so.
    """
    refuse_attention(model)
    with magnitudes(model):
        with _Linear():
            total = _logits(model, device).float().sum()
        torch.autograd.backward(total * counted)


def refuse_still(sums: Iterable[Tensor]) -> None:
    """Raise ValueError, on every rank, where no rank has a flow other than 0. Collective.

    A LayerNorm makes 0 of an input of ones, and leaves its bias, which a model may lack.
    """
    moving = any(bool(each.any()) for each in sums)
    if not sum_over_ranks(torch.tensor(int(moving), device=collective_device())):
        raise ValueError("synflow finds no flow: the model's norms make 0 of an input of ones, and nothing is left")


def refuse_attention(model: nn.Module) -> None:
    """Raise ValueError for attention by a kernel whose softmax cannot be left out."""
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if attention not in (None, *_ATTENTIONS):
        raise ValueError(
            f"synflow needs attention by {' or '.join(_ATTENTIONS)}, not {attention}, whose kernel it cannot open"
        )


@contextmanager
def magnitudes(model: nn.Module) -> Iterator[None]:
    """Context manager: every parameter is |w|, in place; under ZeRO-3 each rank changes its own shards.

    Holds one byte for each number that this rank stores.
    """
    stored = [local(p) for p in model.parameters() if p.is_floating_point()]
    signs: list[Tensor] = []
    try:
        for each in stored:
            signs.append(each.signbit())  # not sign(), which has one 0 for both zeros
            each.abs_()
        yield
    finally:
        for each, negative in zip(stored, signs, strict=False):  # fewer signs where it failed on the way
            each.copy_(torch.where(negative, each.neg(), each))


def _logits(model: nn.Module, device: torch.device) -> Tensor:
    """Of one position with an embedding of ones."""
    embedding: Any = getattr(model, "get_input_embeddings", lambda: None)()
    weight = getattr(embedding, "weight", None)
    if weight is None:
        raise ValueError("synflow needs a language model with input embeddings, which this has not")
    ones = torch.ones(1, 1, full_shape(weight)[-1], dtype=weight.dtype, device=device)
    logits: Tensor = model(inputs_embeds=ones, use_cache=False).logits
    return logits


class _Linear(TorchFunctionMode):
    """Activations and softmax are the identity, by whatever name a model calls them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _IDENTITIES:
            return args[0] if args else (kwargs or {})["input"]
        called = _attention if func is F.scaled_dot_product_attention else func
        return called(*args, **(kwargs or {}))


def _attention(
    query: Tensor, key: Tensor, value: Tensor, *_: Any, scale: float | None = None, enable_gqa: bool = False, **__: Any
) -> Tensor:
    """Attention without its softmax; of one position, which no mask hides from itself."""
    if enable_gqa:
        key, value = (each.repeat_interleave(query.shape[-3] // each.shape[-3], -3) for each in (key, value))
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    return (query @ key.mT * factor) @ value
