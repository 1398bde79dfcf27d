"""The score store: rankings, and gradient sums for larger selection ratios, keyed by a hash of what they depend on.

A folder on storage that every node sees, shared by neighbouring sweeps:

- <key>.safetensors, a ranking: `asked`, and by candidate `<name>.indices` and `<name>.scores` (see Ranking),
- <key>.sums/<position>.safetensors, the un-normalised float32 gradient sum of one candidate,
- <key>.lock, held while computing.

All files carry checksums; a damaged one counts as missing. Everything here is collective.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from gallop_ray.disk.bucket.tree import refresh, share
from gallop_ray.disk.locks import Lock, NoLocks
from gallop_ray.disk.whole import remove_drafts
from gallop_ray.records.scores import SUMS
from gallop_ray.sparse.budget import Quota
from gallop_ray.sparse.checked import load_checked, save_checked
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.mask import Ranking, broadcast_from_owners, index_dtype
from gallop_ray.sparse.weights import all_ranks, collective_device, rank

_LOG = logging.getLogger(__name__)
_PATIENCE = 5.0  # seconds between the waiting ranks' collectives, which would time out if rank 0 just blocked


class ScoreStore:
    """The store in a folder, which is created when first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Context manager: no other run, in any process, is in here with the same key."""
        lock = Lock(self.folder / f"{key}.lock")
        while not all_ranks(rank() > 0 or _taken(lock)):
            pass
        try:
            yield
            all_ranks(True)  # a barrier: the lock is released when all ranks have written
        finally:
            lock.release()

    def ranking(self, key: str, owned: OwnedGradients, quotas: Sequence[Quota]) -> Ranking | None:
        """The ranking of that key, if it exists, is undamaged, and is large enough for these quotas."""
        names = [f"{owned.candidates[m].name}.{kind}" for m in owned.owned for kind in ("indices", "scores")]
        refresh(self._ranking(key))
        found = load_checked(self._ranking(key), ["asked", *names])
        ranking = None if found is None else _ranking_of(found, owned)
        return ranking if all_ranks(ranking is not None and ranking.holds(quotas)) else None

    def keep_ranking(self, key: str, owned: OwnedGradients, ranking: Ranking) -> None:
        """Store a ranking, replacing any other; rank 0 writes."""
        dtype = index_dtype(max(c.numel for c in owned.candidates))
        indices = broadcast_from_owners(owned.candidates, {m: i.to(dtype) for m, i in ranking.indices.items()}, dtype)
        scores = broadcast_from_owners(owned.candidates, ranking.scores, torch.float32)
        tensors = {"asked": ranking.asked}
        for c, of_matrix, its_scores in zip(owned.candidates, indices, scores, strict=True):
            if of_matrix.numel():
                tensors |= {f"{c.name}.indices": of_matrix, f"{c.name}.scores": its_scores}
        if rank() == 0:
            _save(self._ranking(key), tensors)

    def has_ranking(self, key: str) -> bool:
        """Whether there is a ranking, of any size and state."""
        return all_ranks(rank() > 0 or self._ranking(key).exists())

    def sums(self, key: str, owned: OwnedGradients) -> dict[int, Tensor] | None:
        """The gradient sums of this rank's matrices, if those of all matrices exist and are undamaged."""
        read = {m: load_checked(self._sums(key) / f"{m}.safetensors", ["sum"]) for m in owned.owned}
        found = {m: tensors["sum"] for m, tensors in read.items() if tensors}
        return found if all_ranks(len(found) == len(read)) else None

    def keep_sums(self, key: str, owned: OwnedGradients) -> None:
        """Store the gradient sums, a file per matrix, written by its owner: any number of ranks can read them."""
        for m in owned.owned:
            _save(self._sums(key) / f"{m}.safetensors", {"sum": owned.copy(m)})

    def drop_sums(self, key: str) -> None:
        """Remove the gradient sums of that key, if any; rank 0 does it."""
        if rank() == 0:
            shutil.rmtree(self._sums(key), ignore_errors=True)

    def _ranking(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _sums(self, key: str) -> Path:
        return self.folder / f"{key}{SUMS}"


def _taken(lock: Lock) -> bool:
    """Try to take the lock. Where the folder does not support locks, go ahead: at worst two runs compute the same."""
    try:
        lock.path.parent.mkdir(parents=True, exist_ok=True)
        return lock.acquire(timeout=_PATIENCE)
    except (NoLocks, OSError) as error:
        _LOG.warning("no lock on scores: %s", error)
    return True


def _ranking_of(tensors: Mapping[str, Tensor], owned: OwnedGradients) -> Ranking:
    """This rank's part of a stored ranking; matrices without ranked entries are not in the file."""
    none, device = {"indices": torch.empty(0, dtype=torch.int64), "scores": torch.empty(0)}, collective_device()
    indices, scores = (
        {m: tensors.get(f"{owned.candidates[m].name}.{kind}", none[kind]).to(device) for m in owned.owned}
        for kind in ("indices", "scores")
    )
    return Ranking(indices, scores, tensors["asked"])


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Save, or warn: a run that has its scores does not fail because they cannot be stored."""
    try:
        path.parent.mkdir(exist_ok=True)
        remove_drafts(path.parent, of=path.name)
        save_checked(path, tensors)
        share(path)
    except OSError as error:
        _LOG.warning("scores are not kept in %s: %s", path.parent, error)
