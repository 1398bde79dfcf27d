"""Square blocks of a weight matrix: their mean scores, and the entries of chosen blocks."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


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
