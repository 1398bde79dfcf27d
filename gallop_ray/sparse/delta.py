"""The sparse delta on a model: attach it, let an optimizer train it, write it into the weights, take it off again."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gallop_ray.sparse.adapter import save_adapter
from gallop_ray.sparse.candidates import Candidate
from gallop_ray.sparse.layers import SparseLinear
from gallop_ray.sparse.mask import Mask
from gallop_ray.sparse.weights import gather_all, rank, read_entries, write_entries


class SparseDelta:
    """The chosen entries of a model as ordinary parameters, one vector per matrix that has any.

    A matrix without a chosen entry stays a plain linear layer. Everything here is collective under ZeRO-3.
    """

    def __init__(self, model: nn.Module, candidates: Sequence[Candidate], mask: Mask) -> None:
        self.module = model
        self._places = [c for c in candidates if c.name in mask.indices]
        self._indices = [mask.indices[c.name] for c in self._places]
        self._base = self._read()
        self._deltas: list[Tensor] = []
        self._layers = [
            SparseLinear(c.linear, i, b.clone())
            for c, i, b in zip(self._places, self._indices, self._base, strict=True)
        ]
        for c, layer in zip(self._places, self._layers, strict=True):
            setattr(c.parent, c.attribute, layer)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable vectors, in the candidates' order."""
        return [layer.values for layer in self._layers]

    def write(self) -> None:
        """Write the optimizer's values into the weights; to be called after every optimizer step."""
        self._write(gather_all(self.parameters))

    def settle(self) -> None:
        """Make the weights equal to base + delta, computed in float32.

        Rounding can keep base + (trained - base) one unit from trained. Settling before the last evaluation makes what
        is measured and what the adapter reproduces the same bits.
        """
        self._deltas = [now.float() - base.float() for now, base in zip(self._read(), self._base, strict=True)]
        self._write([base.float() + delta for base, delta in zip(self._base, self._deltas, strict=True)])

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the settled delta as an adapter; rank 0 writes."""
        assert len(self._deltas) == len(self._places), "settle() comes first"
        if rank() == 0:
            names = [f"{c.name}.weight" for c in self._places]
            save_adapter(
                path,
                dict(zip(names, self._indices, strict=True)),
                dict(zip(names, self._deltas, strict=True)),
                metadata,
            )

    def detach(self) -> None:
        """Restore the base weights bit for bit, and the plain linear layers."""
        self._write(self._base)
        for c, layer in zip(self._places, self._layers, strict=True):
            setattr(c.parent, c.attribute, c.linear)
            layer.release()

    def _read(self) -> list[Tensor]:
        return [read_entries(c.linear.weight, i) for c, i in zip(self._places, self._indices, strict=True)]

    @torch.no_grad()
    def _write(self, values: Sequence[Tensor]) -> None:
        for c, indices, v in zip(self._places, self._indices, values, strict=True):
            write_entries(c.linear.weight, indices, v)
