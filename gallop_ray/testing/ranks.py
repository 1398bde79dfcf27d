"""Real ranks for tests, of gloo or NCCL: long-lived processes that run plain functions sent to them."""

import atexit
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any
from unittest import mock


def _serve(rank: int, world: int, backend: str, store: str, pipe: Connection) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    torch.manual_seed(0)  # imports draw from the random state, differently in each process
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=world)
    while (job := pipe.recv()) is not None:
        function, args = job
        try:
            pipe.send((True, function(*args)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
    os._exit(0)


class Ranks:
    """`world` processes in one group. Calling it runs a module-level function on all of them.

    backend: `gloo`, whose ranks see no GPU, or `nccl`, of whose ranks each has a GPU.
    """

    def __init__(self, world: int, backend: str = "gloo") -> None:
        context = multiprocessing.get_context("spawn")
        self.broken = False
        self._folder = tempfile.TemporaryDirectory()
        self._pipes, self._processes = [], []
        for rank in range(world):
            ours, theirs = context.Pipe()
            store = f"{self._folder.name}/store"
            process = context.Process(target=_serve, args=(rank, world, backend, store, theirs), daemon=True)
            with mock.patch.dict(os.environ, {} if backend == "nccl" else {"CUDA_VISIBLE_DEVICES": ""}):
                os.environ.pop("DS_ACCELERATOR", None)  # of this process, which may see other devices
                process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def __call__(self, function: Callable[..., Any], *args: Any, timeout: float = 240) -> list[Any]:
        """The results by rank. A rank's exception, or silence for `timeout` seconds, fails the test with its trace."""
        self.broken = True  # until all ranks have answered
        for pipe in self._pipes:
            pipe.send((function, args))
        results: dict[int, Any] = {}
        while len(results) < len(self._pipes):
            open_pipes = [p for i, p in enumerate(self._pipes) if i not in results]
            ready: list[Any] = wait(open_pipes, timeout)
            assert ready, f"{function.__name__}: no answer from ranks {set(range(len(self._pipes))) - set(results)}"
            for pipe in ready:
                fine, value = pipe.recv()
                assert fine, value
                results[self._pipes.index(pipe)] = value
        self.broken = False
        return [results[rank] for rank in range(len(self._pipes))]

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()


_shared: dict[tuple[int, str], Ranks] = {}


def shared_ranks(world: int, backend: str = "gloo") -> Ranks:
    """`world` ranks, started once and shared by all callers. A group that failed a test is replaced."""
    key = world, backend
    if key in _shared and _shared[key].broken:
        _shared.pop(key).stop()
    if key not in _shared:
        _shared[key] = Ranks(world, backend)
    return _shared[key]


@atexit.register
def _stop_shared() -> None:
    while _shared:
        _shared.popitem()[1].stop()
