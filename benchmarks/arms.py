"""The things that are compared, each in processes of its own that stay alive and repeat their work when told to.

All take turns, one repetition each, so that a machine that slows down or speeds up does so for all of them.
"""

import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

ROUNDS, WARM_UP = 7, 2
QUICK_ROUNDS, QUICK_WARM_UP = 3, 1


@dataclass(frozen=True)
class Work:
    """What an arm repeats: `prepare`, which is not timed, then `run`, which is and which returns counts to report."""

    run: Callable[[], dict[str, int]]
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Measured:
    """An arm's median seconds, its peak memory in bytes, and what its last repetition counted."""

    seconds: float
    bytes: int
    counts: Mapping[str, float]


class Arm:
    """`ranks` processes in one process group, in each of which `build(*args)` makes the work."""

    def __init__(self, build: Callable[..., Work], *args: Any, ranks: int = 1, backend: str = "gloo") -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch"])
        self._name = f"{build.__module__}.{build.__name__}{args}"
        self._folder = tempfile.TemporaryDirectory()
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(ranks):
            ours, theirs = context.Pipe()
            place = (rank, ranks, backend, f"{self._folder.name}/store")
            process = context.Process(target=_serve, args=(place, theirs, build, args), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self._answers()

    def repeat(self) -> Measured:
        """Do the work once: the seconds of the slowest rank, the memory and the counts of the largest."""
        for pipe in self._pipes:
            pipe.send(True)
        seconds, peaks, counts = zip(*self._answers(), strict=True)
        return Measured(max(seconds), max(peaks), {key: max(c[key] for c in counts) for key in counts[0]})

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()

    def _answers(self) -> list[Any]:
        try:
            return [pipe.recv() for pipe in self._pipes]
        except EOFError as error:
            raise RuntimeError(
                f"{self._name} ended early: its error is above, or the system was out of memory"
            ) from error


def training_arm(build: Callable[..., Work], *args: Any) -> Arm:
    """An arm of one rank, on the GPU where there is one."""
    return Arm(build, *args, backend="nccl" if torch.cuda.is_available() else "gloo")


def take_turns(arms: Mapping[str, Arm], quick: bool) -> dict[str, Measured]:
    """Every arm's medians over the rounds after the warm-up. Stops the arms."""
    warm_up, rounds = (QUICK_WARM_UP, QUICK_ROUNDS) if quick else (WARM_UP, ROUNDS)
    try:
        taken = [{name: arm.repeat() for name, arm in arms.items()} for _ in range(warm_up + rounds)]
    finally:
        for arm in arms.values():
            arm.stop()
    return {name: _middle([one[name] for one in taken], warm_up) for name in arms}


def _middle(repetitions: list[Measured], warm_up: int) -> Measured:
    last = repetitions[-1]
    return Measured(statistics.median(m.seconds for m in repetitions[warm_up:]), last.bytes, last.counts)


def _serve(
    place: tuple[int, int, str, str], pipe: Connection, build: Callable[..., Work], args: tuple[Any, ...]
) -> None:
    rank, ranks, backend, store = place
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    torch.set_num_threads(max(1, torch.get_num_threads() // ranks))
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=ranks)
    work = build(*args)
    pipe.send(None)
    while pipe.recv():
        work.prepare()
        dist.barrier()
        begun = _now()
        counts = work.run()
        pipe.send((_now() - begun, _peak_memory(), counts))


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_memory() -> int:
    """Of the GPU's allocator where something lies on one, else resident in this process, in bytes."""
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return on_gpu or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
