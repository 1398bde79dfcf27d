"""A delta as a PEFT SHiRA adapter (arXiv 2406.13175).

PEFT gives every adapted matrix r x (in + out) trained entries, with one r for the whole adapter. A global mask fills
some matrices more than others; the rest is padded with entries that add nothing.
"""

import math
from collections.abc import Mapping
from typing import Any

import peft
import torch
from torch import Tensor, nn

from gallop_ray.sparse.layers import is_linear_map

_ADDS_NOTHING = -0.0  # 0.0 would turn a weight of -0.0 into 0.0


def to_shira(model: nn.Module, adapter: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """The ShiraConfig, and the tensors of its file by PEFT's names: `shira_indices` int32 (2, n) as rows over columns,
    `shira_weight` float32 (n,), n = r (in + out).

    Args:
        model: the base model, of which only names and shapes are read; it may be on the meta device.
        adapter: the tensors of a gallop_ray adapter file.

    Raises ValueError where anything but linear layers is trained, and where a matrix has fewer than r (in + out)
    entries, r being what the fullest matrix needs.
    """
    weights = [key.removesuffix(".delta") for key in adapter if key.endswith(".delta")]
    if others := [name for name in weights if not name.endswith(".weight")]:
        raise ValueError(f"SHiRA holds linear layers only, and {others[0]} holds the matrices of several experts")
    modules = [name.removesuffix(".weight") for name in weights]
    shapes = {name: _shape(name, model.get_submodule(name)) for name in modules}
    counts = {name: adapter[f"{name}.weight.delta"].numel() for name in modules}
    r = _rank(shapes, counts)
    tensors = {}
    for name, (out_features, in_features) in shapes.items():
        indices, delta = (adapter[f"{name}.weight.{part}"] for part in ("indices", "delta"))
        flat = _filled(indices.long(), r * (in_features + out_features), out_features * in_features)
        tensors[f"base_model.model.{name}.shira_indices"] = torch.stack([flat // in_features, flat % in_features]).int()
        padding = torch.full((flat.numel() - delta.numel(),), _ADDS_NOTHING)
        tensors[f"base_model.model.{name}.shira_weight"] = torch.cat([delta, padding])
    return peft.ShiraConfig(r=r, target_modules=modules), tensors


def _shape(name: str, module: nn.Module) -> tuple[int, int]:
    if not (isinstance(module, nn.Linear) and is_linear_map(module)):
        raise ValueError(f"SHiRA holds linear layers only, and {name} is a {type(module).__name__}")
    return module.out_features, module.in_features


def _rank(shapes: Mapping[str, tuple[int, int]], counts: Mapping[str, int]) -> int:
    """The smallest r that holds the fullest matrix. Raises ValueError where another matrix is too small for it."""
    needed = {name: math.ceil(counts[name] / sum(shape)) for name, shape in shapes.items()}
    fullest = max(needed, key=lambda name: needed[name])
    r = needed[fullest]
    for name, shape in shapes.items():
        if r * sum(shape) > math.prod(shape):
            raise ValueError(
                f"{counts[fullest]} of the {math.prod(shapes[fullest])} entries of {fullest} are trained, for which "
                f"SHiRA needs r = {r}, and so {r * sum(shape)} entries of {name}, which has only {math.prod(shape)}"
            )
    return r


def _filled(indices: Tensor, n: int, numel: int) -> Tensor:
    """`indices` (k,) followed by the lowest n - k unused flat indices below `numel`: PEFT adds up duplicate entries."""
    free = torch.ones(numel, dtype=torch.bool)
    free[indices] = False
    return torch.cat([indices, free.nonzero().view(-1)[: n - indices.numel()]])
