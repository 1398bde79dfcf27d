"""LIFT: the principal weights, which stand out after rank reduction (arXiv 2506.00772)."""

import torch
from torch import Tensor

from gallop_ray.methods.contract import MatrixState, RefreshedMethod
from gallop_ray.sparse.topk import largest


class Lift(RefreshedMethod):
    """score = |best rank-r approximation of the present w|, for each matrix by itself; chosen again every N steps."""

    needs_matrices = True

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        return low_rank(weight, self.spec.rank).abs_()

    def refreshes_after(self, step: int, steps: int) -> bool:
        every: int = self.spec.refresh_every
        return step % every == 0 and step < steps

    def refresh(self, state: MatrixState) -> Tensor:
        return largest(self.score(state.weight, None, state.generator), state.indices.numel())


def low_rank(weight: Tensor, rank: int) -> Tensor:
    """The approximation of `weight` (out, in) by its `rank` largest singular values: float32 (out, in).

    Neighbouring singular values of language models differ by less than 1 %, so that what is nearly the right subspace
    ranks the entries in another order. Hence the eigenvectors of the smaller Gram matrix, in float64: they have squared
    the condition, and still leave ten digits. About 9 m^3 operations for m = min(out, in), and 8 out in + 32 m^2 bytes.
    """
    matrix = weight.double()
    wide = matrix.shape[0] <= matrix.shape[1]
    gram = matrix @ matrix.t() if wide else matrix.t() @ matrix
    # eigh sorts upwards: the last vectors belong to the largest singular values.
    kept = torch.linalg.eigh(gram).eigenvectors[:, max(0, len(gram) - rank) :]
    approximation: Tensor = kept @ (kept.t() @ matrix) if wide else matrix @ kept @ kept.t()
    return approximation.float()
