"""Scores based on the mean gradient: SAFT, SIFT, SNIP, and SMT's blocks; GASDU, which reselects by the gradient."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gallop_ray.methods.contract import MaskMethod, MatrixState, RefreshedMethod
from gallop_ray.methods.units import in_units
from gallop_ray.sparse.budget import Quota, entries_to_choose
from gallop_ray.sparse.candidates import Candidate
from gallop_ray.sparse.topk import largest


def block_means(scores: Tensor, side: int) -> Tensor:
    """Mean of each side x side block of `scores` (out, in); blocks at the edges may be smaller.

    Returns float32 (ceil(out / side), ceil(in / side)).
    """
    pooled = F.avg_pool2d(scores.float()[None, None], side, ceil_mode=True, count_include_pad=False)
    return pooled[0, 0]


def block_entries(blocks: Tensor, shape: Sequence[int], side: int) -> Tensor:
    """The sorted flat entry indices of a matrix of `shape` that lie in the blocks with these flat indices."""
    rows, columns = (-(-size // side) for size in shape)
    chosen = torch.zeros(rows * columns, dtype=torch.bool, device=blocks.device)
    chosen[blocks.long()] = True
    entries = chosen.view(rows, columns).repeat_interleave(side, 0).repeat_interleave(side, 1)
    return entries[: shape[0], : shape[1]].reshape(-1).nonzero().view(-1)


class Saft(MaskMethod):
    """score = |g| (SAFT, arXiv 2407.03036)."""

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """|g|: float32 in the weight's shape; overwrites the gradient."""
        assert gradient is not None
        return gradient.abs_()


class Sift(Saft):
    """score = |g|, int(rate x numel) + 1 entries of each matrix (SIFT, arXiv 2312.11875).

    rate is the share of the candidates' entries that the density asks for.
    """

    def quotas(self, candidates: Sequence[Candidate], total: int) -> list[Quota]:
        """One quota per matrix. Raises ValueError for a density that the candidates cannot hold."""
        available = sum(c.numel for c in candidates)
        rate = entries_to_choose(self.spec.density, candidates, total) / available
        return [Quota((m,), min(int(rate * c.numel) + 1, c.numel)) for m, c in enumerate(candidates)]


class Gasdu(RefreshedMethod):
    """score = |g| of the present batch, per matrix; reselected every N steps (GASDU)."""

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """|g|: float32 in the weight's shape; overwrites the gradient."""
        assert gradient is not None
        return gradient.abs_()

    def refreshes_after(self, step: int, steps: int) -> bool:
        """Every `refresh_every` steps, but not after the last one, where nothing would train the new entries."""
        return step % int(self.spec.refresh_every) == 0 and step < steps

    def accumulates_in(self, step: int, steps: int) -> bool:
        """In the step itself: the gradient is that of one batch."""
        return self.refreshes_after(step, steps)

    def refresh(self, state: MatrixState) -> Tensor:
        """The entries with the largest |g| of the batch."""
        assert state.gradient is not None
        return largest(state.gradient.abs(), state.indices.numel())


class Snip(MaskMethod):
    """score = |w g| (SNIP's saliency, arXiv 1810.02340, on pre-trained weights)."""

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """|w g|: float32 in the weight's shape; overwrites the gradient."""
        assert gradient is not None
        return gradient.mul_(weight).abs_()


class Smt(Saft):
    """score of a block = its mean |g|, or |its mean g|; whole blocks are trained (SMT, arXiv 2405.15525).

    The number of blocks is k over the average number of entries per block, rounded: blocks at the edge of a matrix may
    be smaller.
    """

    needs_matrices = True

    @property
    def entries_per_unit(self) -> int:  # type: ignore[override]
        """Entries of a full block; those at the edges of a matrix may have fewer."""
        return int(self.spec.block_size) ** 2

    def quotas(self, candidates: Sequence[Candidate], total: int) -> list[Quota]:
        """Blocks to choose. Raises ValueError as MaskMethod.quotas, and for less than half a block."""
        entries = super().quotas(candidates, total)  # first: it refuses vectors, which have no blocks
        counts = [_blocks(c.shape, self.spec.block_size) for c in candidates]
        fix = f"lower block_size {self.spec.block_size}"
        return in_units(entries, candidates, counts, self.spec.density, "block", fix)

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """One score per block: float32 (ceil(out / block_size), ceil(in / block_size))."""
        assert gradient is not None
        if self.spec.block_score == "absolute_of_mean":
            return block_means(gradient, self.spec.block_size).abs_()
        return block_means(gradient.abs_(), self.spec.block_size)

    def entries(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        """The sorted flat entries of the chosen blocks."""
        return block_entries(units, shape, self.spec.block_size)


def _blocks(shape: Sequence[int], side: int) -> int:
    return -(-shape[0] // side) * -(-shape[1] // side)
