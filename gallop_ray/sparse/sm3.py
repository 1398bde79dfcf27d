"""SM3's accumulators (arXiv 1901.11150) of matrices of which only some entries are trained."""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from gallop_ray.sparse.candidates import Candidate, parts
from gallop_ray.sparse.weights import world_size

RowsAndColumns = tuple[Tensor, Tensor]
"""Float32 (out,) and (in,)."""


class Accumulators:
    """One number for each row and each column of every matrix, fed by the gradients of the trained entries alone.

    A row with no entry that has ever been trained has 0. The same bits on every rank; 4 bytes for each trained entry,
    row and column.
    """

    def __init__(self, places: Sequence[Candidate]) -> None:
        self._parts = [parts(place) for place in places]
        self._of: dict[str, RowsAndColumns] = {
            c.name: (
                torch.zeros(_sides(c)[0], device=c.weight.device),
                torch.zeros(_sides(c)[1], device=c.weight.device),
            )
            for together in self._parts
            for c in together
        }
        self._sums: dict[int, Tensor] = {}

    def add(self, place: int, chosen: Tensor) -> None:
        """Add to the step's gradient of the trained entries (k,) of one place, on this rank."""
        total = self._sums.get(place)
        # A copy: the tensor itself becomes the gradient, which DeepSpeed and clipping change in place.
        self._sums[place] = chosen.to(torch.float32, copy=True) if total is None else total.add_(chosen)

    def end_step(self, indices: Sequence[Tensor]) -> None:
        """Take in the step's mean gradient over the ranks, of the entries `indices` of each place. Collective."""
        gradient = torch.cat(
            [self._sums.get(m, torch.zeros(i.numel(), device=i.device)) for m, i in enumerate(indices)]
        )
        if world_size() > 1:
            dist.all_reduce(gradient)
        self._sums.clear()
        of_places = gradient.div_(world_size()).split([i.numel() for i in indices])
        for together, entries, values in zip(self._parts, indices, of_places, strict=True):
            for c in together:
                here = (entries >= c.offset) & (entries < c.offset + c.numel)
                take_in(*self._of[c.name], entries[here] - c.offset, values[here])

    def of(self, name: str) -> RowsAndColumns:
        """Of one matrix."""
        return self._of[name]

    def finite(self) -> bool:
        """Whether all of them are."""
        return all(bool(side.isfinite().all()) for sides in self._of.values() for side in sides)

    def read(self) -> dict[str, Tensor]:
        """All of them, for a checkpoint."""
        return {f"{side}.{n}": t.clone() for n, of in self._of.items() for side, t in zip(_SIDES, of, strict=True)}

    def write(self, kept: Mapping[str, Tensor]) -> None:
        """Restore what read() gave."""
        for name, of in self._of.items():
            for side, tensor in zip(_SIDES, of, strict=True):
                tensor.copy_(kept[f"{side}.{name}"])


_SIDES = ("rows", "columns")


def take_in(rows: Tensor, columns: Tensor, indices: Tensor, gradient: Tensor) -> None:
    """SM3's rule, for the entries at flat `indices` (k,) with `gradient` (k,); changes rows and columns in place.

    An entry's sum of squares is at most what its row and its column have; with the new square added it is the least
    that both must have from now on.
    """
    row, column = indices.long() // columns.numel(), indices.long() % columns.numel()
    bound = torch.minimum(rows[row], columns[column]).addcmul_(gradient, gradient)
    rows.scatter_reduce_(0, row, bound, "amax")
    columns.scatter_reduce_(0, column, bound, "amax")


def _sides(candidate: Candidate) -> tuple[int, int]:
    """Rows and columns; a norm's vector is one row."""
    out, into = (1, *candidate.shape)[-2:]
    return out, into
