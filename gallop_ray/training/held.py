"""Paused runs that stay in a worker's memory, so that continuing one there reads nothing from disk."""

import os
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist

from gallop_ray.sparse.mask import Mask
from gallop_ray.sparse.weights import all_ranks, rank, world_size
from gallop_ray.spec.schema import Sweep
from gallop_ray.training.checkpoint import Checkpoint, last_checkpoint, paused_id


class Held:
    """Paused runs in memory, by the path of their checkpoint on disk, which is why any may be dropped.

    budget: bytes; those that were put aside first go first. Everything here is collective.
    """

    def __init__(self, budget: float) -> None:
        self._budget = budget
        self._held: dict[Path, Checkpoint] = {}

    @property
    def paths(self) -> list[Path]:
        """Of the runs that are held, those that were put aside first first."""
        return list(self._held)

    def put(self, path: Path, checkpoint: Checkpoint) -> None:
        """Write the checkpoint, and keep it as far as there is space for it."""
        self._held.pop(path, None)
        checkpoint.save(path)
        self._held[path] = checkpoint
        while self._held and sum(map(_bytes, self._held.values())) > self._budget:
            self._held.pop(next(iter(self._held)))

    def take(self, path: Path) -> Checkpoint | None:
        """The checkpoint to resume from, without reading it where it is the one that is held; None without any.

        Another process may have continued the run since: the file's id tells.
        """
        held, ids = self._held.pop(path, None), [paused_id(path) if rank() == 0 else None]
        if world_size() > 1:
            dist.broadcast_object_list(ids, src=0)
        same = held is not None and held.interim is not None and held.interim.id == ids[0]
        return held if all_ranks(same) else last_checkpoint(path)


def _bytes(checkpoint: Checkpoint) -> int:
    vectors = [v for each in checkpoint.state.values() for v in each]
    vectors += [*checkpoint.mask.indices.values(), *(t for pair in checkpoint.touched.values() for t in pair)]
    vectors += checkpoint.kept.values()
    vectors += [] if checkpoint.best is None else checkpoint.best.values
    return sum(v.numel() * v.element_size() for v in vectors)


def on_cpu(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint with everything in main memory, as a read one has it."""
    best = checkpoint.best
    return replace(
        checkpoint,
        state={key: [v.cpu() for v in vectors] for key, vectors in checkpoint.state.items()},
        shared={key: value.cpu() for key, value in checkpoint.shared.items()},
        mask=Mask({name: i.cpu() for name, i in checkpoint.mask.indices.items()}),
        touched={name: (i.cpu(), v.cpu()) for name, (i, v) in checkpoint.touched.items()},
        kept={name: value.cpu() for name, value in checkpoint.kept.items()},
        best=None if best is None else replace(best, values=[v.cpu() for v in best.values]),
    )


def held_bytes(sweep: Sweep) -> float:
    """Bytes of this process for paused runs: every rank holds a whole copy, so those of a node share the budget."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
    return sweep.resources.held_gb * 1e9 / max(1, processes)
