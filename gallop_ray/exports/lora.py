"""A delta as a LoRA adapter of PEFT: each matrix's change by its largest singular values, and what that leaves out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import peft
import torch
from torch import Tensor, nn

from gallop_ray.methods.lift import low_rank_factors
from gallop_ray.sparse.layers import is_linear_map


@dataclass(frozen=True)
class Approximation:
    """How far the adapter is from the delta: the norm of the difference over that of the delta."""

    rank: int
    error: float
    """Of all matrices together."""
    worst: float
    matrix: str
    """The matrix with the worst error."""

    def __str__(self) -> str:
        return (
            f"LoRA of rank {self.rank} leaves out {self.error:.1%} of the change (norm of the difference over that of "
            f"the change; {self.worst:.1%} in {self.matrix}); --rank sets it, --to peft leaves out nothing"
        )


def to_lora(
    model: nn.Module, found: Mapping[str, tuple[Tensor, Tensor]], rank: int
) -> tuple[Any, dict[str, Tensor], Approximation]:
    """The LoraConfig, the tensors of its file by PEFT's names, and their distance from the delta.

    Args:
        model: the base model, of which only names and shapes are read; it may be on the meta device.
        found: by weight, the flat indices and the delta of an adapter (gallop_ray.sparse.adapter).
        rank: r; the scale alpha / r is 1. A smaller matrix is filled up with zeros.

    Raises ValueError where anything but linear layers is trained, or nothing has changed.
    """
    tensors, errors, norms = dict[str, Tensor](), dict[str, float](), dict[str, float]()
    for weight, (indices, delta) in found.items():
        name = weight.removesuffix(".weight")
        module = model.get_submodule(name) if name != weight else None
        if not (isinstance(module, nn.Linear) and is_linear_map(module)):
            raise ValueError(f"LoRA is for linear layers, and {name} is none")
        dense = torch.zeros(module.out_features, module.in_features)
        dense.view(-1)[indices.long()] = delta
        left, right = low_rank_factors(dense, rank)
        errors[name] = float((dense.double() - left @ right).norm())
        norms[name] = float(dense.double().norm())
        padding = rank - right.shape[0]
        tensors[f"base_model.model.{name}.lora_A.weight"] = _padded(right, (0, 0, 0, padding))
        tensors[f"base_model.model.{name}.lora_B.weight"] = _padded(left, (0, padding))
    if not any(norms.values()):
        raise ValueError("its delta is 0 everywhere: there is nothing to approximate")
    relative = {name: errors[name] / norms[name] if norms[name] else 0.0 for name in norms}
    worst = max(relative, key=lambda name: relative[name])
    whole = math.hypot(*errors.values()) / math.hypot(*norms.values())
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=[w.removesuffix(".weight") for w in found])
    return config, tensors, Approximation(rank, whole, relative[worst], worst)


def _padded(factor: Tensor, by: tuple[int, ...]) -> Tensor:
    return torch.nn.functional.pad(factor, by).float().contiguous()
