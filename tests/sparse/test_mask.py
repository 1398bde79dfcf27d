"""The global mask equals a stable sort of all scores, whatever the number of ranks."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gallop_ray.sparse.budget import everything
from gallop_ray.sparse.candidates import Candidate, find_candidates
from gallop_ray.sparse.gradients import assign_owners
from gallop_ray.sparse.mask import Mask, choose_mask, index_dtype
from gallop_ray.sparse.topk import EXCLUDED
from gallop_ray.sparse.weights import rank, world_size

KINDS = ("random", "tied", "zero", "excluded", "neighbours", "wide")
CASES = 150
WORLDS = (1, 2, 3)


def case(seed: int) -> tuple[list[Tensor], int]:
    """The scores of one to six matrices of different sizes, and how many entries to choose."""
    generator = torch.Generator().manual_seed(seed)
    shapes = torch.randint(1, 10, (int(torch.randint(1, 7, (), generator=generator)), 2), generator=generator)
    scores = [_scores(KINDS[seed % len(KINDS)], shape, generator) for shape in shapes.tolist()]
    eligible = sum(int((s != EXCLUDED).sum()) for s in scores)
    some = int(torch.randint(1, eligible + 1, (), generator=generator))
    return scores, (1, some, eligible)[seed // len(KINDS) % 3]


def _scores(kind: str, shape: list[int], generator: torch.Generator) -> Tensor:
    uniform = torch.rand(shape, generator=generator)
    few = torch.randint(0, 4, shape, generator=generator).float()
    if kind == "zero":
        return torch.zeros(shape)
    if kind == "excluded":
        excluded = few.masked_fill(uniform < 0.4, EXCLUDED)
        excluded.view(-1)[-1] = 2.0  # so that there is something to choose
        return excluded
    if kind == "neighbours":  # floats that differ in their last bits only
        return (torch.randint(0, 9, shape, generator=generator, dtype=torch.int32) + 0x3F800000 - 4).view(torch.float32)
    if kind == "wide":  # from the smallest subnormal number to the largest there is
        exponents = torch.randint(0, 255, shape, generator=generator, dtype=torch.int32) << 23
        return (exponents + torch.randint(0, 1 << 23, shape, generator=generator, dtype=torch.int32)).view(
            torch.float32
        )
    return few if kind == "tied" else uniform


def candidates_for(scores: list[Tensor]) -> list[Candidate]:
    layers = nn.ModuleList(nn.Linear(s.shape[1], s.shape[0], bias=False) for s in scores)
    return find_candidates(layers)


def choose_from(scores: list[Tensor], k: int) -> Mask:
    """This rank knows only the scores of the matrices that it owns."""
    owners = assign_owners([s.numel() for s in scores], world_size())
    owned = {m: s for m, s in enumerate(scores) if owners[m] == rank()}
    return choose_mask(candidates_for(scores), owned, [everything(scores, k)])


def choose_cases() -> list[dict[str, list[int]]]:
    masks = [choose_from(*case(seed)) for seed in range(CASES)]
    assert all(i.dtype == torch.int32 for mask in masks for i in mask.indices.values())
    return [{n: i.tolist() for n, i in mask.indices.items()} for mask in masks]


def sorted_reference(scores: list[Tensor], k: int) -> dict[str, list[int]]:
    """The first k of a stable sort, largest first, by matrix; matrices without any left out."""
    flat = np.concatenate([s.numpy().astype(np.float64).ravel() for s in scores])
    best = np.sort(np.argsort(-flat, kind="stable")[:k])
    ends = np.cumsum([s.numel() for s in scores])
    parts = np.split(best, np.searchsorted(best, ends[:-1]))
    starts = ends - [s.numel() for s in scores]
    return {str(m): (part - starts[m]).tolist() for m, part in enumerate(parts) if part.size}


@pytest.mark.parametrize("world", WORLDS)
def test_the_mask_is_the_start_of_a_stable_sort(ranks: Callable, world: int) -> None:
    answers = ranks(world)(choose_cases)
    for seed in range(CASES):
        scores, k = case(seed)
        expected = sorted_reference(scores, k)
        assert all(EXCLUDED not in scores[int(m)].view(-1)[i] for m, i in expected.items())
        for masks in answers:
            assert masks[seed] == expected, f"case {seed} ({KINDS[seed % len(KINDS)]})"


def test_the_cases_hold_all_that_matters() -> None:
    drawn = [case(seed) for seed in range(CASES)]
    assert {len(scores) for scores, _ in drawn} == {1, 2, 3, 4, 5, 6}, "fewer matrices than ranks, and more"
    assert any(k == sum(s.numel() for s in scores) for scores, k in drawn)
    assert any(
        k == sum(int((s != EXCLUDED).sum()) for s in scores) < sum(s.numel() for s in scores) for scores, k in drawn
    )
    assert any(k == 1 for _, k in drawn)


def choose_growing() -> list[tuple[int, set[tuple[str, int]]]]:
    chosen = []
    for kind in ("random", "tied"):
        generator = torch.Generator().manual_seed(5)
        scores = [_scores(kind, shape, generator) for shape in ([6, 7], [3, 2], [9, 9], [1, 4])]
        for k in (1, 2, 10, 40, 41, 100, 133):
            mask = choose_from(scores, k)
            chosen.append((k, {(n, i) for n, indices in mask.indices.items() for i in indices.tolist()}))
    return chosen


def test_a_smaller_mask_is_a_part_of_a_larger_one(ranks: Callable) -> None:
    for chosen in ranks(3)(choose_growing):
        for (k, small), (larger_k, large) in itertools.pairwise(chosen):
            assert len(small) == k
            assert larger_k < k or small < large


@pytest.mark.slow
def test_a_matrix_larger_than_a_chunk_of_the_histogram() -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randint(0, 1000, (2100, 2100), generator=generator).float()
    mask = choose_from([scores], 1_000_003)
    assert mask.chosen == 1_000_003
    assert {n: i.tolist() for n, i in mask.indices.items()} == sorted_reference([scores], 1_000_003)


REFUSED = {
    "too many": (1.0, 19, "cannot choose 19 entries: 18 are eligible"),
    "too many with exclusions": (EXCLUDED, 18, "cannot choose 18 entries: 17 are eligible"),
    "none": (1.0, 0, "cannot choose 0 entries"),
    "NaN": (math.nan, 3, "negative, infinite or NaN"),
    "infinite": (math.inf, 3, "negative, infinite or NaN"),
    "minus infinite": (-math.inf, 3, "negative, infinite or NaN"),
    "negative": (-0.5, 3, "negative, infinite or NaN"),
    "negative NaN": (-math.nan, 3, "negative, infinite or NaN"),
}


def refusals() -> dict[str, list[str]]:
    """The message about each bad case, the odd score in the first, then in the second matrix."""
    messages: dict[str, list[str]] = {}
    for name, (odd, k, _) in REFUSED.items():
        for matrix in (0, 1):
            scores = [torch.ones(3, 4), torch.ones(2, 3)]
            scores[matrix][1, 2] = odd
            with pytest.raises(ValueError) as error:  # noqa: PT011 - its text is compared by the test
                choose_from(scores, k)
            messages.setdefault(name, []).append(str(error.value))
    return messages


@pytest.mark.parametrize("world", WORLDS)
def test_bad_scores_are_refused_on_every_rank_alike(ranks: Callable, world: int) -> None:
    for messages in ranks(world)(refusals):
        for name, (*_, expected) in REFUSED.items():
            assert len(messages[name]) == 2
            assert all(expected in message for message in messages[name]), (name, messages[name])


def test_indices_are_int32_as_long_as_they_fit() -> None:
    assert index_dtype(2**31 - 1) == torch.int32
    assert index_dtype(2**31) == torch.int64
