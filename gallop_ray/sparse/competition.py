"""Scores rewritten so that a plain choice of the largest ones respects budgets finer than quotas.

Whoever chooses (`gallop_ray.sparse.mask`) only compares numbers. A budget per row, or one per matrix that depends on
the scores themselves, is therefore written into the scores: masks stay nested, exact and the same on all ranks.
"""

from typing import Literal

import torch
from torch import Tensor

from gallop_ray.sparse.topk import EXCLUDED

Spread = Literal["norm_times_entropy", "norm_over_entropy"]
_EPS = 1e-8  # of GEM's authors' code


def by_row(scores: Tensor) -> Tensor:
    """Scores of one matrix (out, in) whose k largest are k / out entries of each row, each row's largest.

    Where k is no multiple of out, the rows whose next entry is largest have one more; below out entries that is one
    entry of the rows with the largest ones. A vector is one row. Non-negative float32; EXCLUDED stays so.
    """
    if not bool(scores.isfinite().all()):
        return scores  # for the choice to refuse
    rows = scores.view(-1, scores.shape[-1])
    levels, columns = rows.sort(dim=1, descending=True, stable=True)
    # Across the rows: first all largest entries, the largest of them first, then all second largest, and so on.
    places = levels.t().sort(dim=1, descending=True, stable=True).indices
    order = columns.t().gather(1, places) + places * rows.shape[1]
    return _descending(order.reshape(-1), scores)


def by_spread(scores: Tensor, spread: Spread) -> Tensor:
    """Scores of one matrix that, compared with those of others, give it entries in proportion to `weight_of` it.

    The j-th largest entry (j = 0, 1, ...) gets weight / (2 j + 1): the k largest of all matrices are then dealt out by
    the method of Sainte-Lague, which adds up to k, rounds to the nearest, and lets a matrix have all it holds at most.
    """
    eligible = scores != EXCLUDED
    if not bool(scores.isfinite().all()):
        return scores
    weight, order = weight_of(scores[eligible], spread), scores.view(-1).sort(descending=True, stable=True).indices
    quotients = weight / (2 * torch.arange(len(order), dtype=torch.float64, device=scores.device) + 1)
    dealt = torch.empty_like(scores).view(-1)
    dealt[order] = quotients.float()
    return dealt.view(scores.shape).masked_fill_(~eligible, EXCLUDED)


def weight_of(scores: Tensor, spread: Spread) -> Tensor:
    """||r|| H or ||r|| / (H + 1e-8) of non-negative scores r: scalar float64; 0 where all are 0.

    H = - sum p log(p + 1e-8) with p = r / sum(r), as GEM's authors compute it.
    """
    exact = scores.double()
    total: Tensor = exact.sum()
    if not total:
        return total
    shares = exact / total
    entropy, norm = -(shares * (shares + _EPS).log()).sum().clamp_(max=0), exact.norm()
    weight: Tensor = norm * entropy if spread == "norm_times_entropy" else norm / (entropy + _EPS)
    return weight


def _descending(order: Tensor, scores: Tensor) -> Tensor:
    """Distinct non-negative scores that fall along `order`, the flat positions from the first choice to the last."""
    # Bit patterns of floats, counted down: exact for any number of entries, where 1 / place would round.
    bits = torch.arange(len(order), 0, -1, dtype=torch.int32, device=scores.device)
    found = torch.empty(len(order), dtype=torch.int32, device=scores.device)
    found[order] = bits
    return found.view(torch.float32).view(scores.shape).masked_fill(scores == EXCLUDED, EXCLUDED)
