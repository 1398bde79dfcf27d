"""LIFT: the principal weights, which stand out after rank reduction (arXiv 2506.00772)."""

import torch
from torch import Tensor

from gallop_ray.methods.contract import MatrixState, RefreshedMethod
from gallop_ray.sparse.topk import largest

_EXACT_BELOW = 512  # rows or columns up to which a whole SVD is cheap
_ITERATIONS = 4
_OVERSAMPLING = 10


class Lift(RefreshedMethod):
    """score = |best rank-r approximation of the present w|, for each matrix by itself; chosen anew every N steps."""

    needs_matrices = True

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        return low_rank(weight, self.spec.rank, generator).abs_()

    def refreshes_after(self, step: int, steps: int) -> bool:
        every: int = self.spec.refresh_every
        return step % every == 0 and step < steps

    def refresh(self, state: MatrixState) -> Tensor:
        return largest(self.score(state.weight, None, state.generator), state.indices.numel())


def low_rank(weight: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """The approximation of `weight` (out, in) by its `rank` largest singular values: float32 (out, in).

    Small matrices exactly; large ones by subspace iteration from a seeded start (Halko et al., arXiv 0909.4061).
    """
    matrix = weight.float()
    smaller = min(matrix.shape)
    if smaller <= _EXACT_BELOW or rank + _OVERSAMPLING >= smaller:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    else:
        start = torch.randn(matrix.shape[1], rank + _OVERSAMPLING, generator=generator).to(matrix.device)
        basis = torch.linalg.qr(matrix @ start).Q
        for _ in range(_ITERATIONS):
            basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.t() @ basis).Q).Q
        u, s, vh = torch.linalg.svd(basis.t() @ matrix, full_matrices=False)
        u = basis @ u
    approximation: Tensor = (u[:, :rank] * s[:rank]) @ vh[:rank]
    return approximation
