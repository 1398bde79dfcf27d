"""dW of a linear layer: all of it, or only the chosen entries."""

import logging
import warnings
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from gallop_ray.sparse.memory import is_out_of_memory

_LOG = logging.getLogger(__name__)
_WORTH_IT = {
    "cpu": {torch.float32: 0.06, torch.bfloat16: 0.03, torch.float16: 0.03},
    "cuda": {torch.float32: 0.01, torch.bfloat16: 0.003, torch.float16: 0.003},
}
"""Density below which computing only the chosen entries beats the dense product.

On a CPU measured with 1024 tokens and matrices of 576 x 576 and 576 x 1536, without matrix instructions. On a GPU
reckoned from what either moves and computes: `python -m benchmarks kernel` measures it."""

# The layout lives for one product only, and its warning would stand in every worker's log.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """dW (out, in) of y = x W^T from x (..., in) and dy (..., out)."""
    dense: Tensor = grad.reshape(-1, grad.shape[-1]).t() @ x.reshape(-1, x.shape[-1])
    return dense


def worth_choosing(weight: Tensor, indices: Tensor) -> bool:
    """Whether `chosen_gradient` is faster than the dense dW, and can be computed on the weight's device."""
    limit = _WORTH_IT.get(weight.device.type, {}).get(weight.dtype, 0)
    if indices.numel() >= limit * weight.numel():
        return False
    return weight.device.type == "cpu" or _kernel_works(weight.device, weight.dtype)


@cache
def _kernel_works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the GPU's kernel is there, compiles and gives the dense product's entries, tried once per process."""
    if find_spec("triton") is None:
        return False
    draw = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(70, n, generator=draw).to(device, dtype) for n in (40, 30))
    indices = torch.arange(0, 1200, 7, device=device)
    try:
        found, dense = chosen_gradient(x, grad, indices), weight_gradient(x.float(), grad.float()).view(-1)[indices]
        # Of sums of 70 products around 1; TF32 may have rounded the dense ones to 10 bits.
        error = float((found - dense).abs().max())
    except Exception as failure:  # of Triton, of the compiler that it calls, of the driver
        if is_out_of_memory(failure):
            raise
        _LOG.warning("dW is formed whole: the kernel for chosen entries does not run here: %s", failure)
        return False
    if not error < 0.1:
        _LOG.warning("dW is formed whole: the kernel for chosen entries is off by %g on this GPU", error)
    return error < 0.1


def chosen_gradient(x: Tensor, grad: Tensor, indices: Tensor) -> Tensor:
    """The entries of dW at sorted flat `indices` (k,), float32 (k,), each a dot product over the tokens.

    Args:
        x: (..., in).
        grad: dy (..., out).
    """
    if x.device.type != "cpu":
        # Here: Triton is there where torch is built for a GPU, and takes a second to import.
        from gallop_ray.sparse.sampled_product import sampled_product

        return sampled_product(x, grad, indices)
    return _by_rows(x, grad, indices)


def _by_rows(x: Tensor, grad: Tensor, indices: Tensor) -> Tensor:
    """As chosen_gradient, on a CPU."""
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
