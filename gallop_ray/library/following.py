"""Weights that follow the trained values by themselves, and state dicts without the values.

Hooks of each sparse layer do this, so that no training loop has anything to call. They need complete weights; under
ZeRO-3 a sweep writes into the shards instead.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gallop_ray.sparse.layers import SparseLayer


def follow(layer: SparseLayer) -> None:
    """From now on, update the layer's weight before anything reads it: a forward pass, a state dict.

    Its state dict is that of the plain layer. Loading one sets the values, too; it raises RuntimeError, as
    load_state_dict does, for a weight that differs from the present one outside of the mask.
    """
    layer.register_forward_pre_hook(write_values)
    untyped: Any = layer
    untyped.register_state_dict_pre_hook(write_values)
    untyped.register_state_dict_post_hook(_drop_values)
    untyped.register_load_state_dict_pre_hook(_take_values)


@torch.no_grad()
def write_values(layer: nn.Module, *_: Any) -> None:
    """Write the present values into the weight, rounded to its dtype.

    Always, because nothing tells reliably whether they have changed: fused optimizers do not bump `_version`. Through
    `data`, which does not bump it either: two forward passes may precede one backward pass, which autograd would refuse
    although what is written is what is there. Raises RuntimeError for a weight that was split over processes after the
    adapter was attached.
    """
    assert isinstance(layer, SparseLayer)
    weight = layer.weight.data
    if not weight.numel():
        raise RuntimeError(
            "the weights have been split over processes (ZeRO-3 or FSDP), into which values are not written here; "
            "use DDP or ZeRO 1 or 2, or train by a sweep, which knows ZeRO-3"
        )
    weight.view(-1)[layer.indices] = layer.values.data.to(weight.dtype)


def _drop_values(layer: nn.Module, state: dict[str, Any], prefix: str, _: object) -> None:
    state.pop(f"{prefix}values", None)


@torch.no_grad()
def _take_values(
    layer: SparseLayer, state: dict[str, Any], prefix: str, metadata: Mapping[str, Any], *rest: Any
) -> None:
    errors: list[str] = rest[-1]
    loaded: Tensor | None = state.get(f"{prefix}weight")
    if loaded is None or loaded.shape != layer.weight.shape:
        return  # load_state_dict reports it itself
    if metadata.get("assign_to_params_buffers"):
        errors.append(f"{prefix}weight has an adapter attached, which assign=True would cut off; load without it")
        return
    there = loaded.to(layer.weight)
    same = (there == layer.weight).view(-1)
    same[layer.indices] = True
    if not bool(same.all()):
        errors.append(
            f"{prefix}weight differs from the base model's outside of the mask ({int((~same).sum())} entries); attach "
            "the adapter to the same base model with the same mask before loading"
        )
        # load_state_dict raises only after it has loaded all it could: keep this layer as it is.
        there = state[f"{prefix}weight"] = layer.weight.detach().clone()
    state[f"{prefix}values"] = there.view(-1)[layer.indices]
