"""Histograms of weight magnitudes by powers of two."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gallop_ray.sparse.candidates import Candidate, gathered
from gallop_ray.sparse.gradients import assign_owners
from gallop_ray.sparse.weights import collective_device, rank, sum_over_ranks, world_size

_BIAS, _BITS = 127, 23  # of float32's exponent
_CHUNK = 1 << 22  # entries whose exponents are widened to int64 at a time


def exponent_counts(tensors: Iterable[Tensor]) -> Tensor:
    """How many entries have 2^(e - 127) <= |entry| < 2^(e - 126), for e = 0 ... 255; e = 0 counts zeros, too."""
    counts = torch.zeros(256, dtype=torch.int64, device=collective_device())
    for tensor in tensors:
        for part in tensor.detach().reshape(-1).split(_CHUNK):
            exponents = part.float().abs().view(torch.int32) >> _BITS
            counts += torch.bincount(exponents, minlength=256).to(counts.device)
    return counts


def candidate_counts(candidates: Sequence[Candidate]) -> Tensor:
    """exponent_counts of all candidates' weights, each counted by the rank that owns it. Collective."""
    owners = assign_owners([c.numel for c in candidates], world_size())
    counts = torch.zeros(256, dtype=torch.int64, device=collective_device())
    # Every rank gathers, which is collective; each weight is counted once, by its owner.
    for owner, (_, weight) in zip(owners, gathered(candidates), strict=True):
        if owner == rank():
            counts += exponent_counts([weight])
    return sum_over_ranks(counts)


def magnitude_record(chosen: Tensor, everything: Tensor) -> dict[str, Any]:
    """The entry of mask.json: `edges` (n + 1,) of the magnitudes, counts of the `chosen` and of `all` (n,)."""
    filled = everything.nonzero().view(-1)
    low, high = int(filled[0]), int(filled[-1]) + 1
    return {
        "edges": [0.0 if e == 0 else 2.0 ** (e - _BIAS) for e in range(low, high + 1)],
        "chosen": chosen[low:high].tolist(),
        "all": everything[low:high].tolist(),
    }
