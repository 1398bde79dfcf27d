"""A delta as a PEFT SHiRA adapter (arXiv 2406.13175).

PEFT gives every adapted matrix r x (in + out) trained entries, with one r for the whole adapter. A global mask fills
some matrices more than others: those that are too full for the r that makes the smallest file are saved whole, as
PEFT's `modules_to_save`, and the others are padded with entries that add nothing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import peft
import torch
from torch import Tensor, nn

from gallop_ray.sparse.layers import is_linear_map

_ADDS_NOTHING = -0.0  # 0.0 would turn a weight of -0.0 into 0.0
_SMALL = 1 << 15
"""Rows and columns below this are stored in 16 bits; PEFT makes 32 of them when it loads them."""
_VALUE = 4  # bytes of a float32
Shape = tuple[int, int]


@dataclass(frozen=True)
class ShiraForm:
    """Which matrices are SHiRA's, all with one r, which are saved whole, and the bytes of both together."""

    r: int
    sparse: tuple[str, ...]
    whole: tuple[str, ...]
    bytes: int


def smallest_form(shapes: Mapping[str, Shape], counts: Mapping[str, int], itemsize: int) -> ShiraForm:
    """The form of the smallest file. shapes, counts: (out, in) of each matrix, and its trained entries.

    itemsize: bytes of a weight. Raises ValueError where even the smallest r leaves no matrix to SHiRA.
    """
    ranks = sorted({math.ceil(counts[name] / sum(shape)) for name, shape in shapes.items()})
    forms = [form for r in ranks if (form := _form(r, shapes, counts, itemsize)).sparse]
    if not forms:
        raise ValueError(
            "so many of the entries of every matrix are trained that SHiRA, PEFT's form for sparse changes, holds none"
        )
    return min(forms, key=lambda form: (form.bytes, len(form.whole)))


def _form(r: int, shapes: Mapping[str, Shape], counts: Mapping[str, int], itemsize: int) -> ShiraForm:
    sparse, whole, total = list[str](), list[str](), 0
    for name, shape in shapes.items():
        entries = r * sum(shape)
        padded, dense = entries * (_VALUE + 2 * _index_type(shape).itemsize), math.prod(shape) * itemsize
        fits = counts[name] <= entries <= math.prod(shape)
        (sparse if fits and padded <= dense else whole).append(name)
        total += min(padded, dense) if fits else dense
    return ShiraForm(r, tuple(sparse), tuple(whole), total)


def _index_type(shape: Shape) -> torch.dtype:
    return torch.int16 if max(shape) <= _SMALL else torch.int32


def to_shira(
    model: nn.Module, adapter: Mapping[str, Tensor], itemsize: int, trained: Callable[[str], Mapping[str, Tensor]]
) -> tuple[Any, dict[str, Tensor]]:
    """The ShiraConfig, and the tensors of its file by PEFT's names: `shira_indices` (2, n) as rows over columns,
    `shira_weight` float32 (n,), n = r (in + out); of whole matrices the parameters of their layers.

    Args:
        model: the base model, of which only names and shapes are read; it may be on the meta device.
        adapter: the tensors of a gallop_ray adapter file.
        itemsize: bytes of one of the model's weights.
        trained: a layer's parameters as they were trained, by its name; asked for whole matrices alone.

    Raises ValueError where anything but linear layers is trained, and as `smallest_form`.
    """
    weights = [key.removesuffix(".delta") for key in adapter if key.endswith(".delta")]
    if others := [name for name in weights if not name.endswith(".weight")]:
        raise ValueError(f"SHiRA holds linear layers only, and {others[0]} holds the matrices of several experts")
    modules = [name.removesuffix(".weight") for name in weights]
    shapes = {name: _shape(name, model.get_submodule(name)) for name in modules}
    form = smallest_form(shapes, {name: adapter[f"{name}.weight.delta"].numel() for name in modules}, itemsize)
    tensors: dict[str, Tensor] = {}
    for name in form.sparse:
        indices, delta = (adapter[f"{name}.weight.{part}"] for part in ("indices", "delta"))
        found = _padded(indices.long(), delta, form.r * sum(shapes[name]), shapes[name])
        tensors |= {f"base_model.model.{name}.{part}": tensor for part, tensor in found.items()}
    for name in form.whole:
        tensors |= {f"base_model.model.{name}.{part}": tensor for part, tensor in trained(name).items()}
    whole = list(form.whole) or None
    return peft.ShiraConfig(r=form.r, target_modules=list(form.sparse), modules_to_save=whole), tensors


def _shape(name: str, module: nn.Module) -> Shape:
    if not (isinstance(module, nn.Linear) and is_linear_map(module)):
        raise ValueError(f"SHiRA holds linear layers only, and {name} is a {type(module).__name__}")
    return module.out_features, module.in_features


def _padded(indices: Tensor, delta: Tensor, n: int, shape: Shape) -> dict[str, Tensor]:
    flat = _filled(indices, n, math.prod(shape))
    padding = torch.full((n - delta.numel(),), _ADDS_NOTHING)
    places = torch.stack([flat // shape[1], flat % shape[1]]).to(_index_type(shape))
    return {"shira_indices": places, "shira_weight": torch.cat([delta, padding])}


def _filled(indices: Tensor, n: int, numel: int) -> Tensor:
    """`indices` (k,) followed by the lowest n - k unused flat indices below `numel`: PEFT adds up duplicate entries."""
    free = torch.ones(numel, dtype=torch.bool)
    free[indices] = False
    return torch.cat([indices, free.nonzero().view(-1)[: n - indices.numel()]])
