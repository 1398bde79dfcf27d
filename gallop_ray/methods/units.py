"""Masks of larger units than entries: how many fit, and S2FT's channels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gallop_ray.methods.contract import MaskMethod
from gallop_ray.sparse.budget import Quota
from gallop_ray.sparse.candidates import Candidate
from gallop_ray.spec.method import LoraRank


def in_units(
    entries: Sequence[Quota],
    candidates: Sequence[Candidate],
    counts: Sequence[int],
    density: float | LoraRank,
    unit: str,
    fix: str,
) -> list[Quota]:
    """Quotas of entries as quotas of units, rounded, by the average number of entries of a unit.

    Args:
        entries: what the density asks for.
        counts: how many units each candidate has.
        unit, fix: what it is called, and what else the user may change; for messages.

    Raises ValueError for less than half a unit.
    """
    found = []
    for quota in entries:
        available = sum(counts[m] for m in quota.matrices)
        size = sum(candidates[m].numel for m in quota.matrices) / available
        # Rounding up to one unit would train more than twice what was asked for.
        if 2 * quota.k < size:
            group = f"{candidates[quota.matrices[0]].name}{' and others' * (len(quota.matrices) > 1)}"
            raise ValueError(
                f"density {density} asks for {quota.k:,} entries of {group}, less than half a {unit}; "
                f"{fix}, raise the density, or give scope global"
            )
        found.append(Quota(quota.matrices, min(max(1, round(quota.k / size)), available)))
    return found


class S2ft(MaskMethod):
    """Whole columns, drawn uniformly: all that a matrix does with some of its input channels (arXiv 2412.06289).

    The authors also train the rows that produce these channels in the matrix before, at shares that are 0 by default in
    their code; here each target draws channels of its own.
    """

    needs_matrices = True

    def quotas(self, candidates: Sequence[Candidate], total: int) -> list[Quota]:
        """Channels to choose.

        Raises ValueError as MaskMethod.quotas, for less than half a channel, and for a weight whose columns are not its
        inputs.
        """
        entries = super().quotas(candidates, total)  # first: it refuses vectors, which have no channels
        if other := next((c for c in candidates if not c.has_inputs_last), None):
            raise ValueError(
                f"s2ft trains columns, all that a weight does with some inputs, and those of {other.name} are not its "
                "inputs: it is stored (in, out); leave it out of target_modules, or use another method"
            )
        counts, fix = [c.shape[1] for c in candidates], "name more target_modules"
        return in_units(entries, candidates, counts, self.spec.density, "channel", fix)

    def most_entries(self, candidates: Sequence[Candidate], total: int) -> int:
        """The channels times the rows of their matrices."""
        return sum(q.k * candidates[m].shape[0] for q in self.quotas(candidates, total) for m in q.matrices)

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """Uniform[0, 1) per column: float32 (in,)."""
        # Drawn on the CPU: a GPU would draw other numbers from the same seed.
        return torch.rand(weight.shape[1], generator=generator).to(weight.device)

    def entries(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        """The sorted flat entries of the chosen columns."""
        rows = torch.arange(shape[0], device=units.device)[:, None] * shape[1]
        return (rows + units.long()[None]).view(-1)
