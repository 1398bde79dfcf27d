"""Sets of entries of one matrix, as sorted flat indices without repeats."""

import torch
from torch import Tensor


def positions(within: Tensor, entries: Tensor) -> Tensor:
    """Where each of `entries` stands in `within`, which holds them all."""
    return torch.searchsorted(within, entries)


def contained(entries: Tensor, within: Tensor) -> Tensor:
    """Of each of `entries`, whether `within` holds it."""
    return torch.isin(entries, within, assume_unique=True)


def union(first: Tensor, second: Tensor) -> Tensor:
    """The entries of either, sorted."""
    both: Tensor = torch.cat([first, second]).unique()
    return both
