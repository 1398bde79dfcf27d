"""Sparse adapters on a model: attach one, train it with any loop, save it, merge it or detach it."""

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from gallop_ray.library.following import follow, write_values
from gallop_ray.library.refresh import MaskRefresh
from gallop_ray.library.selection import Loss, choose, method_of, model_loss, refuse_unfit
from gallop_ray.methods.contract import MaskMethod, RefreshedMethod
from gallop_ray.sparse.adapter import load_adapter, refuse_misfit, refuse_other_base
from gallop_ray.sparse.base_settings import base_settings
from gallop_ray.sparse.base_state import base_hash, checksum
from gallop_ray.sparse.candidates import Candidate, find_candidates, places
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.mask import Mask
from gallop_ray.spec.method import MaskMethodSpec


def attach(
    model: nn.Module,
    spec: MaskMethodSpec,
    batches: Iterable[Any] | None = None,
    *,
    loss: Loss = model_loss,
    seed: int = 0,
    mask: Mask | None = None,
) -> "SparseAdapter":
    """Choose a mask and make its entries the only thing on `model` that an optimizer trains.

    The weights follow by themselves: there is nothing to call while training. Create the optimizer after this, from
    `adapter.parameters()`; Trainer, which creates it when it trains, finds them in the model.

    Args:
        mask: one that select_mask has chosen for this model; then no batches are needed.
        model, spec, batches, loss, seed: as in select_mask.

    Raises:
        ValueError: as select_mask, and for a mask that does not fit the model.
    """
    method = method_of(spec)
    if mask is None:
        candidates, mask = choose(model, method, batches, loss, seed)
    else:
        refuse_unfit(model)
        candidates = _candidates_of(model, mask.indices)
    return SparseAdapter(model, candidates, mask, method, seed)


class SparseAdapter:
    """The chosen entries of a model's weight matrices, one float32 vector of values for each matrix that has any.

    Created by attach() and load(). All other parameters are frozen. A forward pass costs as much as without it, plus
    writing k values; the backward pass forms one matrix's gradient at a time and keeps its chosen entries
    (gallop_ray.sparse.layers). Values are float32 whatever the model's dtype, so that small steps in bfloat16 weights
    add up. The model's state dict is the plain model's, with the trained weights.
    """

    def __init__(
        self,
        model: nn.Module,
        candidates: Sequence[Candidate],
        mask: Mask,
        method: MaskMethod | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self._asking = [(p, p.requires_grad) for p in model.parameters()]
        # Before anything is attached: the hash is taken over the plain model's names.
        self._base_hash, self._base_settings = base_hash(model), json.dumps(base_settings(model))
        self._checksums = {name: checksum(p) for name, p in model.named_parameters()}
        model.requires_grad_(False)
        self._delta = SparseDelta(model, candidates, mask)
        for layer in self._delta.layers:
            layer.values.data = layer.values.data.float()
            follow(layer)
        self._refresh: MaskRefresh | None = None
        if isinstance(method, RefreshedMethod):
            self._refresh = MaskRefresh(method, self._delta, seed)
        self._attached = True

    @property
    def mask(self) -> Mask:
        """The entries trained now: by weight, as Mask has it, sorted flat indices (k_m,)."""
        names = [c.name for c in self._delta.places]
        return Mask(dict(zip(names, self._delta.indices, strict=True)))

    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer trains: a float32 vector (k_m,) for each matrix with chosen entries."""
        return self._delta.parameters

    def refresh_with(self, optimizer: torch.optim.Optimizer, steps: int, step: int = 0) -> None:
        """Call once before training with lift, spiel or sara, to reselect the mask after optimizer steps as they do.

        Works by hooks of the optimizer and counts its steps; nothing else has to be called. With Trainer use
        RefreshCallback. A second call replaces the first.

        Args:
            optimizer: a torch optimizer of `parameters()`; for spiel and sara with Adam's correction, an EntryAdamW.
            steps: optimizer steps of the whole training, which the schedules of spiel and sara depend on.
            step: steps done already.

        Raises:
            ValueError: where the method keeps its mask, or the optimizer does not train these parameters or cannot
                follow a changing mask. A later optimizer step raises Diverged for values or gradients that are not
                finite.
        """
        self._refuse_detached("refresh_with()")
        if self._refresh is None:
            raise ValueError("the mask of this method stays as it is: there is nothing to refresh")
        self._delta.follow_weights()
        self._refresh.bind(optimizer, steps, step)

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write the adapter as one safetensors file: indices, float32 changes, and the base model's hash.

        Afterwards the weights are bit for bit what apply_adapter() or load() makes of the base model and the file; this
        changes each by its last bit at most. Rank 0 writes.

        Raises:
            ValueError: where weights other than the chosen entries have changed, or a value is not finite, so that the
                file would not reproduce the trained model.
            OSError: where the file cannot be written.
        """
        self._refuse_detached("save()")
        self._finalize()
        if not all(bool(values.isfinite().all()) for values in self._delta.touched_values()):
            raise ValueError("what was trained is not finite; a lower learning rate may help")
        self._refuse_other_changes()
        if self._delta.is_unchanged() and any(layer.had_gradient for layer in self._delta.layers):
            warnings.warn("nothing has been learnt: was the optimizer made of adapter.parameters()?", stacklevel=2)
        self._delta.save(
            Path(path), {**(metadata or {}), "base_hash": self._base_hash, "base_settings": self._base_settings}
        )

    @classmethod
    def load(cls, model: nn.Module, path: str | Path) -> Self:
        """Attach a saved adapter to the base model that it was trained on, to evaluate, merge or train it further.

        Its mask is fixed: all entries that lift, spiel or sara have ever trained. To apply it permanently, with less
        memory, use apply_adapter().

        Raises:
            ValueError: naming the file, where it is not a complete gallop_ray adapter, or of another base model; and
                where the model already has an adapter attached.
            OSError: where it cannot be read.
        """
        refuse_unfit(model)
        path = Path(path)
        found, metadata = load_adapter(path)
        refuse_other_base(model, path, metadata)
        refuse_misfit(path, found, {n: p.numel() for n, p in model.named_parameters(remove_duplicate=False)})
        entries = {name.removesuffix(".weight"): indices for name, (indices, _) in found.items()}
        adapter = cls(model, _candidates_of(model, entries), Mask(entries))
        for place, values in zip(adapter._delta.places, adapter.parameters(), strict=True):
            values.data += found[place.path][1].to(values)  # in float32: training continues from exactly these
        adapter._write()
        return adapter

    def merge(self) -> nn.Module:
        """Remove the adapter, keeping the trained weights in the plain model, and return the model."""
        self._refuse_detached("merge()")
        self._finalize()
        self._delta.remove_layers()
        return self._plain()

    def detach(self) -> nn.Module:
        """Remove the adapter and restore the base weights bit for bit. Returns the model."""
        self._refuse_detached("detach()")
        self._delta.follow_weights()
        self._delta.detach()
        return self._plain()

    def _write(self) -> None:
        for layer in self._delta.layers:
            write_values(layer)

    @torch.no_grad()
    def _finalize(self) -> None:
        """Set weights, and values that differ from them, to what the saved delta gives."""
        self._delta.follow_weights()
        self._write()
        self._delta.finalize()
        for layer in self._delta.layers:
            finalized = layer.weight.view(-1)[layer.indices]
            if not torch.equal(layer.values.to(finalized.dtype), finalized):
                layer.values.copy_(finalized)

    def _plain(self) -> nn.Module:
        if self._refresh is not None:
            self._refresh.release()
        for parameter, asked in self._asking:
            parameter.requires_grad_(asked)
        self._attached = False
        return self.model

    def _refuse_detached(self, what: str) -> None:
        if not self._attached:
            raise ValueError(f"the adapter is no longer on the model; {what} comes before detach() and merge()")

    def _refuse_other_changes(self) -> None:
        """With the base's entries put back for a moment, the model must be the base model. Raises ValueError."""
        with self._delta.base_in_place():
            now = dict(self.model.named_parameters())
            changed = [name for name, before in self._checksums.items() if checksum(now[name]) != before]
        if changed:
            raise ValueError(
                f"{len(changed)} weights have changed beside the chosen entries, which the adapter would not hold: "
                f"{', '.join(changed[:5])}; save the model instead, with merge() and save_pretrained()"
            )


def _candidates_of(model: nn.Module, entries: Mapping[str, Tensor]) -> list[Candidate]:
    """The candidates with these names. Raises ValueError where one is not in the model, or lacks such entries."""
    found = [c for c in find_candidates(model, sorted(entries)) if c.place in entries]
    for c in places(found):
        indices = entries[c.name]
        ordered = indices.ndim == 1 and indices.numel() and bool((indices[1:] > indices[:-1]).all())
        if not ordered or int(indices[0]) < 0 or int(indices[-1]) >= c.numel:
            raise ValueError(f"the mask does not fit {c.name}, whose entries are 0 to {c.numel - 1}, each once, sorted")
    return found
