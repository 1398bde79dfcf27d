"""dW of a linear layer: all of it, or on a CPU only the chosen entries."""

import warnings

import torch
from torch import Tensor

_WORTH_IT = {torch.float32: 0.06, torch.bfloat16: 0.03, torch.float16: 0.03}
"""Density below which computing only the chosen entries beats the dense product: measured with 1024 tokens and matrices
of 576 x 576 and 576 x 1536, on a CPU without matrix instructions."""

# The layout lives for one product only, and its warning would stand in every worker's log.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """dW (out, in) of y = x W^T from x (..., in) and dy (..., out)."""
    dense: Tensor = grad.reshape(-1, grad.shape[-1]).t() @ x.reshape(-1, x.shape[-1])
    return dense


def worth_choosing(weight: Tensor, indices: Tensor) -> bool:
    """Whether `chosen_gradient` is faster than the dense dW; on a GPU it never is."""
    return weight.device.type == "cpu" and indices.numel() < _WORTH_IT.get(weight.dtype, 0) * weight.numel()


def chosen_gradient(x: Tensor, grad: Tensor, indices: Tensor) -> Tensor:
    """The entries of dW at sorted flat `indices` (k,), float32 (k,), each a dot product over the tokens.

    Args:
        x: (..., in).
        grad: dy (..., out).
    """
    columns, width = _columns(grad), x.shape[-1]
    starts = torch.arange(0, (len(columns) + 1) * width, width, dtype=indices.dtype)
    pattern = torch.sparse_csr_tensor(
        torch.searchsorted(indices, starts, out_int32=indices.dtype == torch.int32),
        indices % width,
        torch.zeros(indices.numel()),
        size=(len(columns), width),
        check_invariants=False,
    )
    # The kernel reads the second factor's transpose row by row; passed like this, it makes no copy of its own.
    product: Tensor = torch.sparse.sampled_addmm(pattern, columns, _columns(x).t())
    return product.values()


def _columns(rows: Tensor) -> Tensor:
    """(..., n) as contiguous float32 (n, tokens)."""
    flat = rows.reshape(-1, rows.shape[-1]).t()
    # One pass for cast and transposition; .float().contiguous() would take two.
    return torch.empty(flat.shape).copy_(flat)
