"""What a method's runs can be exported to, and the size of it, before anything has run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from gallop_ray.methods import make_method
from gallop_ray.methods.peft import PeftMethod
from gallop_ray.sparse.candidates import Candidate, find_candidates
from gallop_ray.sparse.layers import is_linear_map
from gallop_ray.spec.method import LoraRank, MaskMethodSpec, MethodSpec
from gallop_ray.training.memory import Estimate

_ENTRY, _VALUE = 8, 4  # bytes of an index with its float32 value, and of the value alone


@dataclass(frozen=True)
class Export:
    """A form of a trained model: its size, None where there is none. at_least: whether it may be larger."""

    bytes: int | None
    at_least: bool = False


_NONE = Export(None)


@dataclass(frozen=True)
class Exports:
    """The forms of `gallop-ray export --to`. why: what a user should know of them, empty for nothing."""

    delta: Export
    peft: Export
    merged: Export
    why: str = ""


def exports_of(model: Any, spec: MethodSpec, found: Estimate) -> Exports:
    """The exports of a method that trains as many parameters of the model as `found` says."""
    merged = Export(sum(each.numel() * each.itemsize for each in model.parameters()))
    if isinstance(spec, MaskMethodSpec):
        size, others = found.trained * _ENTRY, _no_linear_layer(find_candidates(model, spec.target_modules))
        if others:
            why = f"PEFT's form for sparse changes holds linear layers only, and {others}; export --to merged"
            return Exports(Export(size), _NONE, merged, why)
        if isinstance(spec.density, LoraRank) and spec.scope in _EVEN:
            return Exports(Export(size), Export(size), merged)
        return Exports(Export(size), Export(size, at_least=True), merged, _UNEVEN)
    if isinstance(make_method(spec), PeftMethod):
        return Exports(_NONE, Export(found.trained * _VALUE), merged)
    return Exports(_NONE, _NONE, merged)


_UNEVEN = (
    "a PEFT folder has room in every matrix for as many entries as the fullest one has (but for matrices that are "
    "trained whole), so it is larger than the delta where the mask is uneven. With scope per_matrix and density "
    "{lora_rank: R} it is as small; or train LoRA; else export --to merged"
)
_EVEN = ("per_matrix", "per_row")
"""Scopes with which a lora_rank gives each matrix as many entries as PEFT's form has."""


def _no_linear_layer(candidates: Sequence[Candidate]) -> str:
    """What one of the candidates is that is no linear layer's weight; empty where all are."""
    for each in candidates:
        if each.expert is not None:
            return f"{each.place} holds the matrices of several experts"
        if not (isinstance(each.module, nn.Linear) and is_linear_map(each.module)):
            return f"{each.name} is of class {type(each.module).__name__}"
    return ""
