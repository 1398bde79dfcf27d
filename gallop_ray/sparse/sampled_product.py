"""The chosen entries of dW on a GPU, without the rest of it: a sampled dense-dense product in Triton.

Triton comes with torch's CUDA builds; this module alone imports it, and only where a kernel is to run. Each entry is
summed by one program in the order of the tokens: the result does not depend on how programs are scheduled.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_ENTRIES, _TOKENS = 32, 64  # of a program, and of one round of its loop
_PANEL = 1024  # columns: 8 MB of bfloat16 inputs of 4096 tokens, a part of the L2 cache

_orders: Any = WeakTensorKeyDictionary()


# Triton looks at annotations, and knows none of ours.
@triton.jit  # type: ignore[untyped-decorator]
def _sum_entries(  # type: ignore[no-untyped-def]
    grad, x, indices, order, out, count, width, tokens, ENTRIES: tl.constexpr, TOKENS: tl.constexpr
):
    at = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    there = at < count
    entry = tl.load(order + at, mask=there, other=0)
    # Wide numbers: a place in a long batch of a large layer is beyond 2^31.
    flat = tl.load(indices + entry, mask=there, other=0).to(tl.int64)
    rows, columns = grad + flat // width * tokens, x + flat % width * tokens
    total = tl.zeros((ENTRIES, TOKENS), tl.float32)
    for start in range(0, tokens, TOKENS):
        token = start + tl.arange(0, TOKENS)[None, :]
        left = tl.load(rows[:, None] + token, mask=there[:, None], other=0.0).to(tl.float32)
        right = tl.load(columns[:, None] + token, mask=there[:, None], other=0.0).to(tl.float32)
        total += left * right
    tl.store(out + entry, tl.sum(total, axis=1), mask=there)


def sampled_product(x: Tensor, grad: Tensor, indices: Tensor) -> Tensor:
    """The entries of dW = dy^T x at sorted flat `indices` (k,), summed in float32: float32 (k,).

    Args:
        x: (..., in), of any floating dtype.
        grad: dy (..., out).
    """
    out = torch.empty(indices.numel(), dtype=torch.float32, device=x.device)
    if not out.numel():
        return out
    width, left, right = x.shape[-1], _by_feature(grad), _by_feature(x)
    order = _by_panel(indices, width)
    programs = (triton.cdiv(out.numel(), _ENTRIES),)
    _sum_entries[programs](
        left, right, indices, order, out, out.numel(), width, left.shape[1], ENTRIES=_ENTRIES, TOKENS=_TOKENS
    )
    return out


def _by_feature(rows: Tensor) -> Tensor:
    """(..., n) as contiguous (n, tokens), filled up with zeros to whole rounds of the kernel's loop."""
    flat = rows.reshape(-1, rows.shape[-1]).t()
    tokens = flat.shape[1]
    made = flat.new_empty(len(flat), -(-tokens // _TOKENS) * _TOKENS)
    made[:, :tokens] = flat
    made[:, tokens:] = 0
    return made


def _by_panel(indices: Tensor, width: int) -> Tensor:
    """The order (k,) in which to take the entries, once per mask: panels of columns, each from the first row down.

    The inputs of a panel stay in the cache while all rows use them; row by row, every row would read all of x again.
    """
    if indices not in _orders:
        order = (indices % width // _PANEL).sort(stable=True).indices
        _orders[indices] = order.to(torch.int32) if len(order) < 2**31 else order
    found: Tensor = _orders[indices]
    return found
