"""Rankings: the best scores, more of them than one mask needs, out of which every smaller mask can be chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gallop_ray.sparse.budget import Quota
from gallop_ray.sparse.mask import choose_within
from gallop_ray.sparse.topk import EXCLUDED
from gallop_ray.sparse.weights import collective_device, sum_over_ranks


@dataclass(frozen=True)
class Ranking:
    """The largest scores of each quota's matrices, with all that tie-breaking needs to choose fewer of them.

    indices, scores: of each matrix that this rank owns, by position: sorted flat positions (n_m,) in the matrix's
    scores, and the float32 scores there. asked: (M,) int64, for each candidate how many its quota asked for in all;
    where fewer are ranked, no more are eligible.
    """

    indices: dict[int, Tensor]
    scores: dict[int, Tensor]
    asked: Tensor

    def holds(self, quotas: Sequence[Quota]) -> bool:
        """Whether choose() gives for these quotas what the whole scores would give."""
        return all(int(self.asked[list(quota.matrices)].min()) >= quota.k for quota in quotas)

    def choose(self, quotas: Sequence[Quota]) -> dict[int, Tensor]:
        """As choose_within on the whole scores. Collective."""
        assert self.holds(quotas)
        # What is ranked of a matrix stands in the matrix's own order, so that ties end in the same way.
        places = choose_within(self.scores, quotas, len(self.asked))
        return {m: self.indices[m][chosen] for m, chosen in places.items()}


def rank_scores(scores: Mapping[int, Tensor], quotas: Sequence[Quota], matrices: int) -> Ranking:
    """Rank the k best of each quota's matrices, or all that are eligible. Collective.

    Arguments as choose_within's; a matrix has one quota at most. Raises ValueError for scores that are none.
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
