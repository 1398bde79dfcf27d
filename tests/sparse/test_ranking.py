"""Every mask up to a ranking's size comes out of it as out of the whole scores; damaged files count as missing."""

import itertools
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gallop_ray.sparse.budget import Quota
from gallop_ray.sparse.checked import load_checked, save_checked
from gallop_ray.sparse.gradients import assign_owners
from gallop_ray.sparse.mask import choose_within, rank_scores
from gallop_ray.sparse.weights import rank, world_size
from tests.sparse.test_mask import case

CASES = 60


def groups(matrices: int, apart: bool) -> list[tuple[int, ...]]:
    return [(m,) for m in range(matrices)] if apart else [tuple(range(matrices))]


def differing() -> list[tuple[int, bool, int]]:
    """On each rank: the cases, quotas and sizes in which a ranking's choice is not that of the whole scores."""
    found = []
    for seed, apart in itertools.product(range(CASES), (False, True)):
        scores, k = case(seed)
        owners = assign_owners([s.numel() for s in scores], world_size())
        mine = {m: s for m, s in enumerate(scores) if owners[m] == rank()}
        fits = {g: min(k, sum(int((scores[m] >= 0).sum()) for m in g)) for g in groups(len(scores), apart)}
        beyond = [Quota(g, k + 1) for g in fits]
        ranking = rank_scores(mine, beyond, len(scores))
        for part in (1, max(1, k // 3), k):
            quotas = [Quota(g, min(part, most)) for g, most in fits.items() if most]
            got, expected = ranking.choose(quotas), choose_within(mine, quotas, len(scores))
            if any(not torch.equal(got[m], expected[m]) for m in mine):
                found.append((seed, apart, part))
        assert ranking.holds(beyond)
        assert not ranking.holds([Quota(g, k + 2) for g in fits])
    return found


@pytest.mark.parametrize("world", [1, 2])
def test_every_smaller_mask_is_in_a_ranking(ranks: Callable, world: int) -> None:
    assert ranks(world)(differing) == [[]] * world


def test_more_than_is_eligible_is_refused_as_by_the_scores_themselves() -> None:
    scores = {0: torch.tensor([[3.0, -1.0], [1.0, 2.0]])}
    ranking = rank_scores(scores, [Quota((0,), 4)], 1)
    assert ranking.indices[0].tolist() == [0, 2, 3]
    with pytest.raises(ValueError, match="3 are eligible"):
        ranking.choose([Quota((0,), 4)])


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {"a": torch.arange(5, dtype=torch.int32), "b": torch.tensor([[0.5, -0.0]]), "none": torch.empty(0)}


def test_what_is_saved_is_loaded(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_checked(tmp_path / "file", tensors)
    found = load_checked(tmp_path / "file", ["a", "b", "none", "other"])
    assert found is not None
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in tensors.items())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_saved_leaves_the_old_file(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_checked(tmp_path / "file", tensors)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            save_checked(tmp_path / "file", {"a": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checked(tmp_path / "file", tensors) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_file_that_was_cut_short_or_changed_is_loaded(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "file"
    assert load_checked(path, tensors) is None
    save_checked(path, tensors)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert load_checked(path, tensors) is None, size
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        found = load_checked(path, tensors)
        same = found is not None and all(n in found and torch.equal(found[n], t) for n, t in tensors.items())
        assert found is None or same, place
