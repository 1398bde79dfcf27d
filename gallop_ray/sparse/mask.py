"""Masks, which say what entries of which matrices are trained, and rankings, which contain every smaller mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from gallop_ray.sparse.budget import Quota
from gallop_ray.sparse.candidates import Candidate
from gallop_ray.sparse.gradients import assign_owners
from gallop_ray.sparse.topk import EXCLUDED, choose, find_threshold
from gallop_ray.sparse.weights import collective_device, rank, sum_over_ranks, world_size


def positions(within: Tensor, entries: Tensor) -> Tensor:
    """The position of each of `entries` in `within`, which is sorted and holds them all."""
    return torch.searchsorted(within, entries)


def contained(entries: Tensor, within: Tensor) -> Tensor:
    """For each of `entries`, whether `within` holds it."""
    return torch.isin(entries, within, assume_unique=True)


def union(first: Tensor, second: Tensor) -> Tensor:
    """The entries that are in either, sorted."""
    both: Tensor = torch.cat([first, second]).unique()
    return both


@dataclass(frozen=True)
class Mask:
    """By weight that has any, the sorted flat indices (k_m,) of its chosen entries, int32 where they fit.

    A weight goes by the path of its module; that of a mixture's experts by the path of the parameter.
    """

    indices: dict[str, Tensor]

    @property
    def chosen(self) -> int:
        """The number of chosen entries, k."""
        return sum(i.numel() for i in self.indices.values())


def index_dtype(numel: int) -> torch.dtype:
    """The smallest index type for a matrix of `numel` entries."""
    return torch.int32 if numel <= torch.iinfo(torch.int32).max else torch.int64


def choose_mask(candidates: Sequence[Candidate], scores: Mapping[int, Tensor], quotas: Sequence[Quota]) -> Mask:
    """The largest scores of each quota's matrices over all ranks, as a mask that every rank holds. Collective.

    `scores` maps the position of each candidate that this rank owns (gallop_ray.sparse.gradients.assign_owners) to its
    float32 scores (out, in). Errors: as find_threshold.
    """
    return share(candidates, choose_within(scores, quotas, len(candidates)))


def choose_within(scores: Mapping[int, Tensor], quotas: Sequence[Quota], matrices: int) -> dict[int, Tensor]:
    """The sorted flat indices of the largest scores in each of this rank's matrices. Collective.

    Arguments and errors: as choose_mask; `matrices` counts the candidates.
    """
    # Matrices without a quota choose nothing, but take part in the broadcast that follows.
    chosen = {m: torch.empty(0, dtype=torch.int64, device=s.device) for m, s in scores.items()}
    for quota in quotas:
        competing = {m: scores[m] for m in quota.matrices if m in scores}
        chosen |= choose(competing, find_threshold(list(competing.values()), quota.k), matrices)
    return chosen


def share(candidates: Sequence[Candidate], chosen: Mapping[int, Tensor]) -> Mask:
    """Give every rank the indices that each owner has chosen. Collective."""
    # One dtype for all matrices: an owner's indices are concatenated for one broadcast.
    dtype = index_dtype(max(c.offset + c.numel for c in candidates))
    whole = broadcast_from_owners(candidates, {m: indices.to(dtype) for m, indices in chosen.items()}, dtype)
    return put_together(candidates, whole)


def put_together(candidates: Sequence[Candidate], indices: Sequence[Tensor]) -> Mask:
    """The mask of the sorted flat indices (k_m,) of each candidate."""
    found: dict[str, list[Tensor]] = {}
    for c, of_matrix in zip(candidates, indices, strict=True):
        if of_matrix.numel():
            found.setdefault(c.place, []).append(of_matrix + c.offset if c.offset else of_matrix)
    return Mask({place: torch.cat(parts) if len(parts) > 1 else parts[0] for place, parts in found.items()})


def even_mask(candidates: Sequence[Candidate], k: int, device: torch.device) -> Mask:
    """k entries, the first of each matrix, in proportion to the matrices' sizes: for estimates, which see only numbers.

    On the meta device the entries themselves are not there.
    """
    dtype = index_dtype(max(c.offset + c.numel for c in candidates))
    available, before, indices = sum(c.numel for c in candidates), 0, []
    for c in candidates:
        count = k * (before + c.numel) // available - k * before // available
        before += c.numel
        indices.append(torch.arange(count, dtype=dtype, device=device))
    return put_together(candidates, indices)


def broadcast_from_owners(
    candidates: Sequence[Candidate], parts: Mapping[int, Tensor], dtype: torch.dtype
) -> list[Tensor]:
    """Give every rank each candidate's vector (n_m,) from its owner, with one broadcast per owner. Collective."""
    owners = assign_owners([c.numel for c in candidates], world_size())
    device = collective_device()
    counts = torch.zeros(len(candidates), dtype=torch.int64, device=device)
    for m, part in parts.items():
        counts[m] = part.numel()
    sum_over_ranks(counts)
    whole: dict[int, Tensor] = {}
    for owner in range(world_size()):
        matrices = [m for m, o in enumerate(owners) if o == owner]
        sizes: list[int] = [int(counts[m]) for m in matrices]
        if rank() == owner and matrices:
            flat = torch.cat([parts[m] for m in matrices])
        else:
            flat = torch.empty(sum(sizes), dtype=dtype, device=device)
        if world_size() > 1 and flat.numel():  # the sizes are known to all: every rank skips the same owners
            dist.broadcast(flat, src=owner)
        whole.update(zip(matrices, (part.clone() for part in flat.split(sizes)), strict=True))
    return [whole[m] for m in range(len(candidates))]


@dataclass(frozen=True)
class Ranking:
    """The largest scores of each quota's matrices, enough to choose any smaller number of them exactly.

    indices, scores: for each matrix that this rank owns, by position: sorted flat positions (n_m,) in the matrix's
    scores, and the float32 scores there. asked: (M,) int64, for each candidate the k of its quota; where fewer are
    ranked, no more are eligible.
    """

    indices: dict[int, Tensor]
    scores: dict[int, Tensor]
    asked: Tensor

    def holds(self, quotas: Sequence[Quota]) -> bool:
        """Whether choose() gives the same for these quotas as the complete scores would."""
        return all(int(self.asked[list(quota.matrices)].min()) >= quota.k for quota in quotas)

    def choose(self, quotas: Sequence[Quota]) -> dict[int, Tensor]:
        """As choose_within on the complete scores. Collective."""
        assert self.holds(quotas)
        # Ranked entries are kept in the matrix's own order, so that ties are broken the same way.
        places = choose_within(self.scores, quotas, len(self.asked))
        return {m: self.indices[m][chosen] for m, chosen in places.items()}


def rank_scores(scores: Mapping[int, Tensor], quotas: Sequence[Quota], matrices: int) -> Ranking:
    """Rank the k best of each quota's matrices, or all that are eligible. Collective.

    Arguments as in choose_within; a matrix has one quota at most. Raises ValueError for invalid scores (negative,
    infinite or NaN).
    """
    asked, eligible = torch.zeros(2, matrices, dtype=torch.int64)
    for m, of_matrix in scores.items():
        eligible[m] = (of_matrix != EXCLUDED).sum()
    eligible = sum_over_ranks(eligible.to(collective_device())).cpu()
    attainable = []
    for quota in quotas:
        there = list(quota.matrices)
        asked[there] = quota.k
        if k := min(quota.k, int(eligible[there].sum())):
            attainable.append(Quota(quota.matrices, k))
    indices = choose_within(scores, attainable, matrices)
    return Ranking(indices, {m: scores[m].reshape(-1)[chosen] for m, chosen in indices.items()}, asked)
