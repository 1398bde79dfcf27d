"""Adapters on disk: a saved delta, and its application to a loaded base model.

A safetensors file with, for each weight that has chosen entries, `<weight>.indices` (k_m,), sorted flat int32 or int64,
and `<weight>.delta` (k_m,), float32, trained minus base. Its metadata identifies the base model by hash.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gallop_ray.disk.damage import Damaged
from gallop_ray.disk.tensors import DELTA
from gallop_ray.sparse.base_settings import base_settings, differing
from gallop_ray.sparse.base_state import base_hash
from gallop_ray.sparse.checked import load_whole, save_checked


def save_adapter(
    path: Path, indices: Mapping[str, Tensor], deltas: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write an adapter. `metadata` must hold `base_hash`; its other entries are stored, too.

    Raises OSError as `save_checked` does.
    """
    assert "base_hash" in metadata
    save_checked(path, adapter_tensors(indices, deltas), {"format": DELTA, **metadata})


def adapter_tensors(indices: Mapping[str, Tensor], deltas: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an adapter's file, by their names there."""
    tensors = {f"{name}.indices": i.cpu() for name, i in indices.items()}
    # float32: from a delta rounded to bfloat16 the trained bfloat16 weights cannot be reproduced bit for bit.
    return tensors | {f"{name}.delta": d.float().cpu() for name, d in deltas.items()}


def load_adapter(path: Path) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, str]]:
    """Indices and delta by weight, and the metadata.

    Raises ValueError, naming the file, where anything differs from what save_adapter() writes; OSError where it cannot
    be read. Whether it fits a model is not checked here, except that no index is negative.
    """
    tensors, metadata = load_whole(path)
    if metadata.get("format") != DELTA:
        raise ValueError(f"{path} is not a gallop_ray adapter (format {metadata.get('format')!r}, expected {DELTA!r})")
    if not metadata.get("base_hash"):
        raise Damaged(path, "names no base model: its metadata has no base_hash", "restore it, or run the seed again")
    names = {name.rpartition(".")[0] for name in tensors}
    if tensors.keys() != {f"{name}.{kind}" for name in names for kind in ("indices", "delta")}:
        alone = sorted(name for name in names if not tensors.keys() >= {f"{name}.indices", f"{name}.delta"})
        what = f"{alone[0]} lacks its indices or its delta" if alone else "it holds other tensors"
        raise _unfit(path, what)
    found = {name: (tensors[f"{name}.indices"], tensors[f"{name}.delta"]) for name in sorted(names)}
    for name, (indices, delta) in found.items():
        if (wrong := _wrong(indices, delta)) is not None:
            raise _unfit(path, f"{name}: {wrong}")
    return found, metadata


def _unfit(path: Path, reason: str) -> Damaged:
    return Damaged(path, f"is not a whole adapter ({reason})", "restore it, or run the seed again")


def _wrong(indices: Tensor, delta: Tensor) -> str | None:
    """Why these cannot be the indices and the delta of one weight; None where they can."""
    if indices.dtype not in (torch.int32, torch.int64) or delta.dtype != torch.float32:
        return f"indices of {indices.dtype} and a delta of {delta.dtype} are neither int32 or int64 nor float32"
    if indices.ndim != 1 or indices.shape != delta.shape:
        return f"indices of shape {tuple(indices.shape)} do not match a delta of shape {tuple(delta.shape)}"
    if indices.numel() and (int(indices[0]) < 0 or bool((indices[1:] <= indices[:-1]).any())):
        return "its indices are negative, repeated or not sorted"
    return None if bool(delta.isfinite().all()) else "its delta is not finite"


class AppliedAdapter:
    """An adapter applied to a model. `remove()` restores the base bit for bit."""

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
    """Add a saved delta to `model` in place: all of it, or nothing where it raises.

    Raises ValueError, naming the file, where it is not a complete gallop_ray adapter or was trained on other weights
    than the model's; OSError where it cannot be read.
    """
    found, metadata = load_adapter(Path(path))
    refuse_other_base(model, Path(path), metadata)
    weights = dict(model.named_parameters(remove_duplicate=False))
    refuse_misfit(Path(path), found, {name: weight.numel() for name, weight in weights.items()})
    # Everything is computed and checked before the first write.
    places = [_place(Path(path), name, weights[name], *entries) for name, entries in found.items()]
    for weight, indices, _, trained in places:
        weight.view(-1)[indices] = trained
    return AppliedAdapter([(weight, indices, base) for weight, indices, base, _ in places])


@torch.no_grad()
def add_delta(weights: Mapping[str, nn.Parameter], delta: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Add a delta that fits (see refuse_misfit) to these weights in place, in the arithmetic of training."""
    for name, (indices, values) in delta.items():
        flat = weights[name].view(-1)
        flat[indices.long()] = (flat[indices.long()].float() + values).to(flat.dtype)


def refuse_misfit(path: Path, found: Mapping[str, tuple[Tensor, Tensor]], sizes: Mapping[str, int]) -> None:
    """Raise ValueError unless every weight of an adapter is in `sizes` (entries by name) and holds all its indices."""
    for name, (indices, _) in found.items():
        if name not in sizes:
            raise _unfit(path, f"the model has no weight {name}")
        if indices.numel() and int(indices[-1]) >= sizes[name]:
            raise _unfit(path, f"{name}: index {int(indices[-1])} is outside of its {sizes[name]} entries")


def _place(
    path: Path, name: str, weight: nn.Parameter, indices: Tensor, delta: Tensor
) -> tuple[nn.Parameter, Tensor, Tensor, Tensor]:
    """A weight, the indices of the entries that change, and their values before and after."""
    if not weight.is_contiguous():
        raise ValueError(f"{path} cannot be applied: {name} of this model is not contiguous in memory")
    indices = indices.to(weight.device)
    base = weight.view(-1)[indices].clone()
    # The same arithmetic as SparseDelta.finalize(), or the bits would not be those that were evaluated.
    trained = (base.float() + delta.to(weight.device)).to(weight.dtype)
    if not bool(trained.isfinite().all()):
        raise _unfit(path, f"{name}: base and delta together are not finite")
    return weight, indices, base, trained


def refuse_other_base(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Raise ValueError unless `model` has exactly the weights on which the adapter at `path` was trained."""
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(f"{path} needs a model with its weights loaded; this one has some on the meta device")
    here = base_hash(model)
    if metadata["base_hash"] != here:
        raise ValueError(
            f"{path} was trained on a base model with hash {metadata['base_hash'][:12]}, this model's is {here[:12]}; "
            "load the same weights in the same dtype, with no other adapter applied"
        )
    refuse_other_settings(model, path, metadata)


def refuse_other_settings(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Raise ValueError where `model` computes with other settings, whatever its weights, than the adapter's base did.

    Adapters of earlier versions do not say what their base computed with.
    """
    if changed := differing(json.loads(metadata.get("base_settings") or "{}"), base_settings(model)):
        raise ValueError(
            f"{path} was trained on a base model that computes otherwise: {', '.join(changed)}; "
            "load it with the configuration that it was trained with"
        )
