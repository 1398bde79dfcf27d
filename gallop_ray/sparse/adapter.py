"""Adapters on disk: a saved delta, and its application to a loaded base model.

A safetensors file with, for each weight that has chosen entries, `<weight>.indices` (k_m,) sorted flat int32 or int64
and `<weight>.delta` (k_m,) float32, trained minus base. Its metadata names the base model by hash.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gallop_ray.sparse.base_hash import base_hash
from gallop_ray.spec.formats import DELTA


def save_adapter(
    path: Path, indices: Mapping[str, Tensor], deltas: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write an adapter. `metadata` must hold `base_hash`; what else it holds is kept with it."""
    assert "base_hash" in metadata
    tensors = {f"{name}.indices": i.cpu() for name, i in indices.items()}
    tensors |= {f"{name}.delta": d.float().cpu() for name, d in deltas.items()}
    save_file(tensors, path, metadata={"format": DELTA, **metadata})


class AppliedAdapter:
    """An adapter in place on a model. `remove()` restores the base bit for bit."""

    def __init__(self, undo: list[tuple[nn.Parameter, Tensor, Tensor]]) -> None:
        self._undo = undo

    @torch.no_grad()
    def remove(self) -> None:
        """Put the base's entries back; a second call does nothing."""
        for weight, indices, base in self._undo:
            weight.view(-1)[indices] = base
        self._undo = []


@torch.no_grad()
def apply_adapter(model: nn.Module, path: str | Path) -> AppliedAdapter:
    """Add a saved delta to `model` in place.

    Raises ValueError where the file is no adapter of ours or was trained on other weights than the model's.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        _refuse_foreign(model, Path(path), metadata)
        undo = []
        for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
            name, _, kind = key.rpartition(".")
            if kind != "delta":
                continue
            weight = model.get_parameter(name)
            indices = file.get_tensor(f"{name}.indices").to(weight.device)
            base = weight.view(-1)[indices].clone()
            weight.view(-1)[indices] = (base.float() + file.get_tensor(key).to(weight.device)).to(weight.dtype)
            undo.append((weight, indices, base))
    return AppliedAdapter(undo)


def _refuse_foreign(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != DELTA:
        raise ValueError(f"{path} is not a gallop_ray adapter (format {metadata.get('format')!r}, expected {DELTA!r})")
    refuse_other_base(model, path, metadata)


def refuse_other_base(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Raise ValueError unless `model` has the very weights on which the adapter at `path` was trained."""
    here = base_hash(model)
    if metadata["base_hash"] != here:
        raise ValueError(
            f"{path} was trained on a base model with hash {metadata['base_hash'][:12]}, this model's is {here[:12]}; "
            "load the same weights in the same dtype, with no other adapter applied"
        )
