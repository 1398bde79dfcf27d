"""Weights that follow the trained values by themselves, and state dicts without the values.

Hooks of each sparse layer do this, so that no training loop has anything to call. They need complete weights; under
ZeRO-3 a sweep writes into the shards instead.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gallop_ray.sparse.layers import ChosenEntries


def follow(entries: ChosenEntries) -> None:
    """From now on, update the layer's weight before anything reads it: a forward pass, a state dict.

    Its state dict is that of the plain layer. Loading one sets the values, too; it raises RuntimeError, as
    load_state_dict does, for a weight that differs from the present one outside of the mask.
    """
    layer: Any = entries.holder
    layer.register_forward_pre_hook(partial(_before_reading, entries))
    layer.register_state_dict_pre_hook(partial(_before_reading, entries))
    layer.register_state_dict_post_hook(partial(_drop_values, entries))
    layer.register_load_state_dict_pre_hook(partial(_take_values, entries))


def _before_reading(entries: ChosenEntries, *_: Any) -> None:
    write_values(entries)


@torch.no_grad()
def write_values(entries: ChosenEntries) -> None:
    """Write the present values into the weight, rounded to its dtype.

    Always, because nothing tells reliably whether they have changed: fused optimizers do not bump `_version`. Through
    `data`, which does not bump it either: two forward passes may precede one backward pass, which autograd would refuse
    although what is written is what is there. Raises RuntimeError for a weight that was split over processes after the
    adapter was attached.
    """
    weight = entries.weight.data
    if not weight.numel():
        raise RuntimeError(
            "the weights have been split over processes (ZeRO-3 or FSDP), into which values are not written here; "
            "use DDP or ZeRO 1 or 2, or train by a sweep, which knows ZeRO-3"
        )
    weight.view(-1)[entries.indices] = entries.values.data.to(weight.dtype)


def _drop_values(entries: ChosenEntries, layer: nn.Module, state: dict[str, Any], prefix: str, _: object) -> None:
    state.pop(f"{prefix}{entries.names[1]}", None)


@torch.no_grad()
def _take_values(
    entries: ChosenEntries,
    layer: nn.Module,
    state: dict[str, Any],
    prefix: str,
    metadata: Mapping[str, Any],
    *rest: Any,
) -> None:
    errors: list[str] = rest[-1]
    name, values = (prefix + each for each in entries.names)
    loaded: Tensor | None = state.get(name)
    if loaded is None or loaded.shape != entries.weight.shape:
        return  # load_state_dict reports it itself
    if metadata.get("assign_to_params_buffers"):
        errors.append(f"{name} has an adapter attached, which assign=True would cut off; load without it")
        return
    there = loaded.to(entries.weight)
    same = (there == entries.weight).view(-1)
    same[entries.indices] = True
    if not bool(same.all()):
        errors.append(
            f"{name} differs from the base model's outside of the mask ({int((~same).sum())} entries); attach "
            "the adapter to the same base model with the same mask before loading"
        )
        # load_state_dict raises only after it has loaded all it could: keep this layer as it is.
        there = state[name] = entries.weight.detach().clone()
    state[values] = there.view(-1)[entries.indices]
