"""However a sweep ends, the user gets one sentence and the right exit code, and nothing of what others print."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from gallop_ray.records.events import PhaseBegan
from gallop_ray.records.folders import SweepFolder
from tests.faults import books
from tests.faults.victims import ACTORS
from tests.sweep import command

pytestmark = pytest.mark.faults

_PATIENCE = 400.0
_OTHERS = ("Traceback", "ERROR", "(raylet)", "state-dump", "core_worker", "Error:")
"""What only libraries print."""


@dataclass(frozen=True)
class End:
    """How a start of the sweep ended: its exit code, what it printed, and how long after the blow."""

    code: int
    output: str
    seconds: float

    def check(self, code: int, sentence: str) -> None:
        """The code, one sentence, and nothing of anybody else's."""
        assert self.code == code, self.output
        (line,) = (line for line in self.output.splitlines() if "The same command resumes" in line)
        assert sentence in line, self.output
        assert not [words for words in _OTHERS if words in self.output], self.output
        assert self.seconds < 40


class Blows:
    """One sweep, started again for every blow."""

    def __init__(self, folder: Path) -> None:
        self.tracking = f"sqlite:///{folder / 'mlflow.db'}"
        self.sweep = command.write_sweep(
            folder,
            methods=[{"type": "gallop", "density": 0.05}],
            search={"space": {"training.learning_rate": {"choice": [1e-4, 2e-4, 3e-4]}}},
            training={**command.TINY["training"], "steps": 60, "checkpoint_steps": 8},
            evaluation={"generate": False},
            budget={"configurations": 3},
            tracking={"uri": self.tracking},
        )
        self.folder = SweepFolder(folder / "runs/tiny")

    def told(self, number: signal.Signals) -> End:
        """A signal while Ray starts."""
        process = command.start("run", self.sweep)
        assert process.stdout is not None
        seen = ""
        while "Ray is started" not in seen:
            seen += process.stdout.readline()
            assert process.poll() is None, seen
        time.sleep(1)
        return self._strike(process, lambda: process.send_signal(number), seen)

    def killed(self, victim: str) -> End:
        """SIGKILL of one of Ray's processes while a run trains."""
        known = self._events()
        process = command.start("run", self.sweep)
        until = time.monotonic() + _PATIENCE
        while self._events() <= known:  # a run that is resumed begins its events again, without the earlier ones
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.05)
        return self._strike(process, lambda: _find(process.pid, victim).kill())

    def _strike(self, process: "subprocess.Popen[str]", blow: Callable[[], None], seen: str = "") -> End:
        try:
            blow()
            began = time.monotonic()
            output, _ = process.communicate(timeout=_PATIENCE)
        finally:
            process.kill()
        return End(process.returncode, seen + output, time.monotonic() - began)

    def _events(self) -> set[tuple[str, float]]:
        runs = self.folder.runs() if self.folder.path.exists() else ()
        return {
            (str(run.path), event.time)
            for run in runs
            for event in run.events()
            if isinstance(event, PhaseBegan) and event.phase == "training"
        }


def _find(parent: int, name: str) -> psutil.Process:
    """The process below a sweep's that does this work."""
    if name == "driver":
        return psutil.Process(parent).children()[0]
    found = []
    for each in psutil.Process(parent).children(recursive=True):
        try:
            title = (each.cmdline() or [""])[0]
        except psutil.Error:
            continue
        found.append(title)
        if title.partition(".")[0] == name or Path(title).name == name:
            return each
    raise AssertionError(f"no {name} among {found}")


@pytest.fixture(scope="module")
def blows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blows]:
    return Blows(tmp_path_factory.mktemp("ends"))


@pytest.mark.parametrize(
    ("number", "code", "sentence"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_while_ray_starts(blows: Blows, number: signal.Signals, code: int, sentence: str) -> None:
    blows.told(number).check(code, sentence)


@pytest.mark.parametrize(
    ("victim", "sentence"),
    [
        ("ray::SlotPool", "a process of the sweep has died, that of SlotPool"),
        ("raylet", "Ray's raylet has ended (killed by signal 9)"),
        ("gcs_server", "Ray's head (gcs_server) has ended (killed by signal 9)"),
    ],
)
def test_a_process_of_rays_that_dies_ends_the_sweep_at_once(blows: Blows, victim: str, sentence: str) -> None:
    end = blows.killed(victim)
    end.check(1, f"stopped: {sentence}")
    log = blows.folder.path / "libraries.log"
    assert str(log) in end.output
    assert log.stat().st_size > 0


def test_the_driver_that_dies_is_spoken_for_and_the_same_command_completes(blows: Blows) -> None:
    end = blows.killed("driver")
    end.check(1, "stopped: the sweep's process was killed by SIGKILL")
    end = blows.killed(ACTORS["trial"])
    assert end.code == 0, end.output
    assert not [words for words in _OTHERS if words in end.output], end.output
    books.check(blows.folder, blows.tracking, configurations=3, runs=6)
