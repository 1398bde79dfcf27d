"""The sparse delta on a model: attach it, let an optimizer train it, write it into the weights, detach it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from gallop_ray.disk.tensors import DELTA
from gallop_ray.sparse.adapter import adapter_tensors
from gallop_ray.sparse.candidates import Candidate, by_module, places, refuse_unreached
from gallop_ray.sparse.checked import save_checked
from gallop_ray.sparse.layers import ChosenEntries, SparseLayer, sparse_layer
from gallop_ray.sparse.mask import Mask, contained, positions, union
from gallop_ray.sparse.mixtures import SparseMixture
from gallop_ray.sparse.weights import gather_all, in_any_order, rank, read_entries, write_entries


class SparseDelta:
    """The chosen entries of a model as ordinary parameters, one vector per matrix that has any.

    A matrix without a chosen entry stays a plain linear layer: ZeRO-3 fails on an empty parameter. A journal of all
    entries ever chosen, with their base values, is what the adapter is made from and the base restored with. Everything
    here is collective under ZeRO-3.
    """

    def __init__(self, model: nn.Module, candidates: Sequence[Candidate], mask: Mask) -> None:
        self.module = model
        self.places = [p for p in places(candidates) if p.name in mask.indices]
        # A mask that was read from a file is in main memory, and is compared with refreshed ones beside the weights.
        self.indices = [mask.indices[c.name].to(c.weight.device) for c in self.places]
        """The entries trained now: sorted flat (k_m,) for each of `places`."""
        self.touched = list(self.indices)
        self._base = self._read(self.touched)
        self._deltas: list[Tensor] = []
        self.layers = self._attach()

    def _attach(self) -> list[ChosenEntries]:
        """Put a layer in the place of each module; the chosen entries, in the places' order."""
        # Cloned: the optimizer trains `values` in place, and the journal must keep the base.
        chosen = {p.name: (i, b.clone()) for p, i, b in zip(self.places, self.indices, self._base, strict=True)}
        attached: dict[str, ChosenEntries] = {}
        layer: SparseLayer | SparseMixture
        for together in by_module(self.places):
            first = together[0]
            if [p.parameter for p in together] == ["weight"]:
                layer = sparse_layer(first.module, *chosen[first.name])
                attached[first.name] = layer
            else:
                layer = SparseMixture(first.module, {p.parameter: chosen[p.name] for p in together})
                attached |= {p.name: layer.entries[p.parameter] for p in together}
            setattr(first.parent, first.attribute, layer)
        return [attached[p.name] for p in self.places]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable vectors, in the candidates' order."""
        return [layer.values for layer in self.layers]

    def write(self) -> None:
        """Write the optimizer's values into the weights; call it after every optimizer step."""
        self._write(self.indices, gather_all(self.parameters))

    def refuse_untrained(self) -> None:
        """Call after the first step: raises ValueError, on every rank, where a chosen matrix has had no gradient."""
        had = [layer.had_gradient for layer in self.layers]
        refuse_unreached([c.name for c in self.places], had, "the first step")

    def base(self) -> list[Tensor]:
        """The base values of the entries trained now: one vector (k_m,) per place."""
        return [
            base[positions(touched, now)]
            for base, touched, now in zip(self._base, self.touched, self.indices, strict=True)
        ]

    def move(self, indices: Sequence[Tensor], restore: bool) -> list[Tensor]:
        """Train these entries from now on, as many as before in each place. Returns their present values.

        Dropped entries keep their trained values, or return to the base with `restore`. The caller moves the
        optimizer's state.
        """
        if restore:
            for c, old, now, base in zip(self.places, self.indices, indices, self.base(), strict=True):
                dropped = ~contained(old, now)
                write_entries(c.weight, old[dropped], base[dropped])
        self._remember(indices)
        for layer, now in zip(self.layers, indices, strict=True):
            layer.indices = now
        self.indices = list(indices)
        return self._read(self.indices)

    def _remember(self, indices: Sequence[Tensor]) -> None:
        """Add entries that are chosen for the first time to the journal; they still hold their base values."""
        for m, (c, now) in enumerate(zip(self.places, indices, strict=True)):
            known, values = self.touched[m], self._base[m]
            whole = union(known, now)
            base = read_entries(c.weight, whole)
            base[positions(whole, known)] = values  # the weights hold trained values there
            self.touched[m], self._base[m] = whole, base

    def touched_values(self) -> list[Tensor]:
        """The present values of all entries ever chosen: one vector per place."""
        return self._read(self.touched)

    @property
    def refreshed(self) -> bool:
        """Whether the journal holds entries that are not trained now."""
        return any(t.numel() > now.numel() for t, now in zip(self.touched, self.indices, strict=True))

    def recall(self, touched: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Restore an earlier state of the journal: by place, all entries ever chosen and their values then.

        Empty where the mask was never refreshed.
        """
        if not touched:
            return
        self._remember([touched[c.name][0].to(c.weight.device) for c in self.places])
        self._write(self.touched, [touched[c.name][1] for c in self.places])

    def finalized(self) -> AbstractContextManager[None]:
        """Nothing to do: finalize() changes weights by rounding only."""
        return nullcontext()

    def finalize(self) -> None:
        """Make the weights equal to base + delta, computed in float32.

        base + (trained - base) may differ from trained in the last bit. Finalizing before the last evaluation makes
        what is measured the same bits as what the adapter reproduces.
        """
        now = self.touched_values()
        self._deltas = [n.float() - base.float() for n, base in zip(now, self._base, strict=True)]
        self._write(self.touched, [base.float() + delta for base, delta in zip(self._base, self._deltas, strict=True)])

    def tensors(self) -> dict[str, Tensor]:
        """What is saved of the finalized delta (see gallop_ray.sparse.adapter)."""
        assert len(self._deltas) == len(self.places), "finalize() comes first"
        names = [p.path for p in self.places]
        indices, deltas = (dict(zip(names, each, strict=True)) for each in (self.touched, self._deltas))
        return adapter_tensors(indices, deltas)

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the finalized delta as an adapter; rank 0 writes."""
        if rank() == 0:
            save_checked(path, self.tensors(), {"format": DELTA, **metadata})

    @contextmanager
    def base_in_place(self) -> Iterator[None]:
        """Context manager: the weights are those of the base model, bit for bit."""
        now = [values.clone() for values in self.touched_values()]
        self._write(self.touched, self._base)
        try:
            yield
        finally:
            self._write(self.touched, now)

    def is_unchanged(self) -> bool:
        """Whether every entry ever chosen has its base value."""
        return all(map(torch.equal, self.touched_values(), self._base))

    def follow_weights(self) -> None:
        """Move the journal to the devices of the weights: `model.to()` moves only the layers' tensors."""
        for m, c in enumerate(self.places):
            device = c.weight.device
            for vectors in (self.indices, self.touched, self._base):
                vectors[m] = vectors[m].to(device)

    def detach(self) -> None:
        """Restore the base weights bit for bit, and the plain layers."""
        self._write(self.touched, self._base)
        self.remove_layers()

    def remove_layers(self) -> None:
        """Put the plain layers back, leaving the weights as they are."""
        for c, layer in zip(self.places, self.layers, strict=True):
            setattr(c.parent, c.attribute, c.module)
            layer.release()

    def _read(self, indices: Sequence[Tensor]) -> list[Tensor]:
        return [read_entries(c.weight, i) for c, i in zip(self.places, indices, strict=True)]

    @torch.no_grad()
    def _write(self, indices: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        with in_any_order():
            for c, i, v in zip(self.places, indices, values, strict=True):
                write_entries(c.weight, i, v)
