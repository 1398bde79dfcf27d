"""The exact k largest of scores that are spread over ranks, without gathering them.

Non-negative float32 numbers sort like their bit patterns. Three histograms over 11, 11 and 9 bits, each summed over the
ranks, therefore determine the bits of the k-th largest score: about 40 kB per rank, whatever the model's size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gallop_ray.sparse.weights import collective_device, sum_over_ranks

Total = Callable[[Tensor], Tensor]
"""Sums counts over the participants, in place."""

EXCLUDED = -1.0
"""The score of an entry that must never be chosen."""

_DIGITS = ((20, 11), (9, 11), (0, 9))  # (shift, width) of the digits of a non-negative float32, most significant first
_NOT_FINITE = 0x7F800000 >> 20  # the first top digit that only infinities and NaN have
_CHUNK = 1 << 22  # entries whose digits are widened to int64 at a time


@dataclass(frozen=True)
class Threshold:
    """The k-th largest score as a bit pattern, and how many entries equal to it belong to the k."""

    bits: int
    ties: int


def _histogram(values: Sequence[Tensor], shift: int, width: int) -> Tensor:
    counts = torch.zeros(1 << width, dtype=torch.int64, device=collective_device())
    for tensor in values:
        for part in tensor.split(_CHUNK):
            digit = (part >> shift) & ((1 << width) - 1)
            counts += torch.bincount(digit, minlength=1 << width).to(counts.device)
    return counts


def _refuse_invalid(negatives: int, excluded: int, histogram: Tensor, k: int, total: Total) -> None:
    """Raise on every rank alike, because the counts are summed before they are looked at."""
    odd = total(torch.tensor(negatives - excluded, device=histogram.device)).item()
    if odd or histogram[_NOT_FINITE:].sum():
        raise ValueError("a score is negative, infinite or NaN; the gradients overflowed or the base model is damaged")
    eligible = int(histogram.sum())
    if not 1 <= k <= eligible:
        raise ValueError(
            f"cannot choose {k:,} entries: {eligible:,} are eligible; "
            "lower the density, or widen target_modules or zero_guard"
        )


def find_threshold(scores: Sequence[Tensor], k: int, total: Total = sum_over_ranks) -> Threshold:
    """The threshold of the k largest of all ranks' scores (float32, any shapes). Collective.

    Raises ValueError, on every rank, for a negative score other than EXCLUDED, for infinities and NaN, and for a k
    outside of 1 ... the number of entries that are not excluded.
    """
    bits = [s.reshape(-1).view(torch.int32) for s in scores]
    # EXCLUDED is the only score with the sign bit: without one nothing has to be filtered or copied.
    negatives = sum(int((b < 0).sum()) for b in bits)
    excluded = sum(int((s == EXCLUDED).sum()) for s in scores) if negatives else 0
    live = [b[b >= 0] for b in bits] if negatives else bits
    pattern, wanted = 0, k
    for shift, width in _DIGITS:
        counts = total(_histogram(live, shift, width))
        if shift == _DIGITS[0][0]:
            _refuse_invalid(negatives, excluded, counts, k, total)
        # The threshold's digit is the largest one with at least `wanted` scores at or above it.
        at_or_above = counts.flip(0).cumsum(0).flip(0)
        digit = int((at_or_above >= wanted).nonzero()[-1])
        wanted -= int(at_or_above[digit] - counts[digit])
        pattern |= digit << shift
        if shift:
            live = [b[((b >> shift) & ((1 << width) - 1)) == digit] for b in live]
    return Threshold(pattern, wanted)


def choose(
    scores: Mapping[int, Tensor], threshold: Threshold, matrices: int, total: Total = sum_over_ranks
) -> dict[int, Tensor]:
    """The sorted flat indices of the chosen entries of each of this rank's matrices. Collective.

    `scores` maps a matrix's position in the global order to its scores; `matrices` is their number over all ranks. Ties
    go to the lowest global index: matrices in order, entries of a matrix in row-major order.
    """
    flat = {m: s.reshape(-1).view(torch.int32) for m, s in scores.items()}
    ties = torch.zeros(matrices, dtype=torch.int64, device=collective_device())
    for m, bits in flat.items():
        ties[m] = (bits == threshold.bits).sum()
    total(ties)
    # Ties are dealt out by global position, not by rank: the mask must not depend on who owns what.
    before = ties.cumsum(0) - ties
    chosen = {}
    for m, bits in flat.items():
        keep = bits > threshold.bits
        quota = min(max(threshold.ties - int(before[m]), 0), int(ties[m]))
        if quota:
            keep[(bits == threshold.bits).nonzero().view(-1)[:quota]] = True
        chosen[m] = keep.nonzero().view(-1)
    return chosen


def largest(scores: Tensor, k: int) -> Tensor:
    """The sorted flat indices (k,) of the k largest scores of one tensor, ties as in `choose`. Not collective.

    Scores are non-negative or EXCLUDED; errors as in find_threshold.
    """
    return choose({0: scores}, find_threshold([scores], k, _alone), 1, _alone)[0]


def _alone(counts: Tensor) -> Tensor:
    return counts
