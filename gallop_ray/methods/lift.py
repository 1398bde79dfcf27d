"""LIFT: principal weights, the largest after rank reduction (arXiv 2506.00772)."""

import torch
from torch import Tensor

from gallop_ray.methods.contract import MatrixState, RefreshedMethod
from gallop_ray.sparse.topk import largest


class Lift(RefreshedMethod):
    """score = |best rank-r approximation of the present w|, per matrix; reselected every N steps."""

    needs_matrices = True

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """|low_rank(w)|: float32 (out, in)."""
        return low_rank(weight, self.spec.rank).abs_()

    def refreshes_after(self, step: int, steps: int) -> bool:
        """Every `refresh_every` steps, but not after the last one, where nothing would train the new entries."""
        every: int = self.spec.refresh_every
        return step % every == 0 and step < steps

    def refresh(self, state: MatrixState) -> Tensor:
        """The entries with the largest scores of the weight as trained so far."""
        return largest(self.score(state.weight, None, state.generator), state.indices.numel())


def low_rank(weight: Tensor, rank: int) -> Tensor:
    """The approximation of `weight` (out, in) by its `rank` largest singular values: float32 (out, in)."""
    left, right = low_rank_factors(weight, rank)
    return (left @ right).float()


def low_rank_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """float64 (out, r) and (r, in), r = min(rank, out, in), whose product is the best approximation of that rank.

    Neighbouring singular values of language models differ by less than 1 %, so an approximate subspace ranks the
    entries in another order. Hence the eigenvectors of the smaller Gram matrix, in float64: forming it squares the
    condition number, which still leaves ten digits. About 9 m^3 operations for m = min(out, in), and
    8 out in + 32 m^2 bytes.
    """
    matrix = weight.double()
    wide = matrix.shape[0] <= matrix.shape[1]
    gram = matrix @ matrix.t() if wide else matrix.t() @ matrix
    # eigh sorts in ascending order: the last vectors belong to the largest singular values.
    kept = torch.linalg.eigh(gram).eigenvectors[:, max(0, len(gram) - rank) :]
    return (kept, kept.t() @ matrix) if wide else (matrix @ kept, kept.t())
