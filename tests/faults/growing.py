"""A sweep for clusters whose nodes come when they are asked for, and vanish: two nodes of one CPU each."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.slots import loads
from tests.faults import books
from tests.sweep import command


def until(condition: Callable[[], Any], seconds: float = 900) -> Any:
    """Wait for what the condition returns."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.5)
    return found


class Sweep:
    """Four configurations of two seeds, whose checkpoints come often."""

    def __init__(self, folder: Path, **resources: Any) -> None:
        self._tracking = f"sqlite:///{folder / 'mlflow.db'}"
        self.folder = SweepFolder(folder / "runs" / "tiny")
        self.file = command.write_sweep(
            folder,
            methods=[{"type": "random"}, {"type": "gallop"}],
            search={"space": {"training.learning_rate": {"choice": [1e-3, 2e-3, 3e-3, 4e-3]}}},
            budget={"configurations": 2},
            training={**command.TINY["training"], "steps": 1000, "checkpoint_steps": 50},
            resources={"workers_per_slot": 1, "cpus_per_worker": 1, **resources},
            tracking={"uri": self._tracking},
        )

    @contextmanager
    def at_work(self, env: dict[str, str]) -> Iterator["Popen[str]"]:
        """The command, once two slots have trained as far as a checkpoint."""
        process = command.start("run", self.file, env=env)
        try:
            until(lambda: process.poll() is not None or self._both_train())
            assert process.poll() is None, process.communicate()[0]
            yield process
        finally:
            process.kill()

    def _both_train(self) -> bool:
        slots = {load.slot for load in loads(self.folder)}
        return len(slots) >= 2 and sum(run.checkpoint.exists() for run in self.folder.runs()) == 2

    def ends(self, process: "Popen[str]", kept: dict[Path, tuple[int, int]]) -> None:
        """Wait for its end, and look: the books are exact, and a run that was hit has repeated no step that it kept.

        kept: books.kept_steps() when a node vanished.
        """
        output, _ = process.communicate(timeout=1200)
        assert process.returncode == 0, output
        books.check(self.folder, self._tracking, configurations=4, runs=8)
        again = [run for run in self.folder.runs() if run.attempt() > kept.get(run.path, (0, 99))[1]]
        # The node had the workers of one slot, and maybe what directs the other: Ray places it where it likes.
        assert 1 <= len(again) <= 2, again
        for run in again:
            first = books.first_step(run)
            assert first is None or first > kept[run.path][0] > 0
