"""The exact global mask, against torch.topk on one rank to which all scores were sent."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.arms import Arm, Measured, Work, take_turns
from benchmarks.report import row, row_alone
from gallop_ray.sparse.budget import everything
from gallop_ray.sparse.candidates import Candidate, find_candidates
from gallop_ray.sparse.gradients import assign_owners
from gallop_ray.sparse.mask import choose_mask
from gallop_ray.sparse.weights import rank, world_size

MATRICES = 64
DENSITY = 0.01
SIZES, QUICK_SIZES = (134_000_000, 1_000_000_000), (400_000,)
LARGE, LARGE_NEEDS = 500_000_000, 16e9
# topk keeps a value and an int64 index of every score, beside the scores and what came from other ranks.
TOPK_BYTES = 28


def measure(quick: bool) -> list[dict[str, Any]]:
    """A row for each number of scores and of ranks."""
    return [found for scores in (QUICK_SIZES if quick else SIZES) for found in _measure_size(scores, quick)]


def _measure_size(scores: int, quick: bool) -> list[dict[str, Any]]:
    free = psutil.virtual_memory().available
    label, worlds = {"scores": scores, "density": DENSITY}, (1, 2)
    if scores > LARGE and free < LARGE_NEEDS:
        reason = f"skipped: {free / 1e9:.0f} GB free, {LARGE_NEEDS / 1e9:.0f} GB needed"
        return [row_alone(None, "torch.topk", reason, ranks=world, **label) for world in worlds]
    side = math.isqrt(scores // MATRICES)
    arms = {f"ours {world}": Arm(exact_mask, side, ranks=world) for world in worlds}
    fits = free > TOPK_BYTES * scores + 2e9
    if fits:
        arms |= {f"topk {world}": Arm(gathered_topk, side, ranks=world) for world in worlds}
    found = take_turns(arms, quick)
    reason = f"torch.topk skipped: {free / 1e9:.0f} GB free, {TOPK_BYTES * scores / 1e9 + 2:.0f} GB needed"
    return [_row(found, world, None if fits else reason, label) for world in worlds]


def _row(found: dict[str, Measured], world: int, reason: str | None, label: dict[str, Any]) -> dict[str, Any]:
    ours = found[f"ours {world}"]
    if reason:
        return row_alone(ours, "torch.topk", reason, ranks=world, **label)
    return row(ours, "torch.topk", found[f"topk {world}"], ranks=world, **label)


class _Scores:
    """This rank's random scores. They live for one repetition, so that waiting arms hold no memory."""

    def __init__(self, side: int) -> None:
        with torch.device("meta"):
            model = nn.ModuleList(nn.Linear(side, side, bias=False) for _ in range(MATRICES))
        self.candidates: list[Candidate] = find_candidates(model)
        self.k = round(DENSITY * MATRICES * side * side)
        self._owners = assign_owners([c.numel for c in self.candidates], world_size())
        self._made: dict[int, Tensor] = {}

    def make(self) -> None:
        owned = [m for m, owner in enumerate(self._owners) if owner == rank()]
        generator = torch.Generator().manual_seed(rank())
        self._made = {m: torch.rand(self.candidates[m].shape, generator=generator) for m in owned}

    def take(self) -> dict[int, Tensor]:
        made, self._made = self._made, {}
        return made


def exact_mask(side: int) -> Work:
    """Ours: the mask on every rank, from scores that stay where they are."""
    scores = _Scores(side)

    def run() -> dict[str, int]:
        with _counting() as sent:
            choose_mask(scores.candidates, scores.take(), [everything(scores.candidates, scores.k)])
        return {"bytes_sent": sum(sent)}

    return Work(run, scores.make)


def gathered_topk(side: int) -> Work:
    """Theirs: all scores go to rank 0, the chosen flat indices back to all. Neither sorted nor split by matrix."""
    scores = _Scores(side)

    def run() -> dict[str, int]:
        with _counting() as sent:
            _gather_and_choose(torch.cat([s.view(-1) for s in scores.take().values()]), scores)
        return {"bytes_sent": sum(sent)}

    return Work(run, scores.make)


def _gather_and_choose(mine: Tensor, scores: _Scores) -> None:
    chosen = torch.empty(scores.k, dtype=torch.int64)
    if rank() == 0:
        every = torch.empty(sum(c.numel for c in scores.candidates)) if world_size() > 1 else mine
        rest = every[mine.numel() :]
        for source, part in enumerate(rest.chunk(world_size() - 1) if rest.numel() else (), start=1):
            dist.recv(part, src=source)
        every[: mine.numel()] = mine
        chosen = torch.topk(every, scores.k, sorted=False).indices
    else:
        dist.send(mine, dst=0)
    if world_size() > 1:
        dist.broadcast(chosen, src=0)


@contextmanager
def _counting() -> Iterator[list[int]]:
    """The bytes that this rank hands to collectives while this is open; a broadcast counts where it starts."""
    sent: list[int] = []

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(tensor: Tensor, *args: Any, **options: Any) -> Any:
            if options.get("src", rank()) == rank():
                sent.append(tensor.numel() * tensor.element_size())
            return call(tensor, *args, **options)

        return wrapper

    names = ("all_reduce", "broadcast", "send")
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(dist, name, counted(getattr(dist, name))))
        yield sent
