"""Killing parts of a sweep that runs."""

import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil

from gallop_ray.records.events import PhaseBegan
from gallop_ray.records.folders import SweepFolder
from tests.faults import books
from tests.sweep import command

PHASES = ("scoring", "selecting", "attaching", "training", "evaluating", "saving")
# A trial has the name of the class in which Tune wraps ours.
ACTORS = {"worker": "ray::RayTrainWorker", "slot": "ray::Slot", "trial": "ray::ResourceTrainable"}
_PATIENCE = 900.0


@dataclass(frozen=True)
class Point:
    """Whom to kill, when, and how long after that moment began."""

    victim: str
    """driver, worker, slot, trial or server; terminate: the driver by SIGTERM, 3 s later SIGKILL."""
    moment: str
    """A phase of a run; starting: before any; ended: when a result has just been written."""
    delay: float


def points(seed: int, count: int) -> list[Point]:
    """A seeded list in which every phase comes with the driver and with a worker before anything comes twice."""
    draw = random.Random(seed)
    moments = [(victim, phase) for phase in PHASES for victim in ("driver", "worker")]
    moments += [("slot", "training"), ("slot", "saving"), ("trial", "training"), ("trial", "evaluating")]
    moments += [("driver", "starting"), ("driver", "ended"), ("terminate", "training"), ("terminate", "evaluating")]
    moments += [("server", "training"), ("server", "ended")]
    draw.shuffle(moments)
    moments.sort(key=lambda moment: moment[1] != "scoring")  # once scores are stored, no run makes any
    return [Point(victim, moment, draw.uniform(0, 0.05)) for victim, moment in moments[:count]]


@dataclass
class Siege:
    """A sweep that is started again and again until it is complete, whatever happens to it."""

    sweep: Path
    folder: SweepFolder
    server: Any = None
    process: "Popen[str] | None" = None
    ledger: books.Ledger = field(default_factory=books.Ledger)
    log: list[str] = field(default_factory=list)

    def survive(self, point: Point) -> bool:
        """Run until the moment comes, kill, and look at the books. False where the sweep was complete before."""
        seen = self._events()
        if not self._wait(point.moment, seen):
            return False
        time.sleep(point.delay)
        self._kill(point)
        self.log.append(f"{point.victim} while {point.moment}")
        self.ledger.look(self.folder)
        return True

    def finish(self) -> str:
        """Let the sweep come to its end; what its last start printed."""
        for _ in range(3):
            output = self._end()
            if output is not None:
                self.ledger.look(self.folder)
                return output
        raise AssertionError(f"runs stay failed: {[each for each in self.folder.results() if not each.finished]}")

    def close(self) -> None:
        """Leave nothing running."""
        if self.process is not None:
            _kill_family(self.process)

    def _end(self) -> str | None:
        self._start()
        assert self.process is not None
        output, _ = self.process.communicate(timeout=_PATIENCE)
        code, self.process = self.process.returncode, None
        assert code in (0, 1), output
        return output if code == 0 else None

    def _start(self) -> None:
        if self.process is None or self.process.poll() is not None:
            self.process = command.start("run", self.sweep)

    def _wait(self, moment: str, seen: set[tuple[str, ...]]) -> bool:
        """Wait for the moment to come once more than in `seen`."""
        self._start()
        until = time.monotonic() + _PATIENCE
        if moment == "starting":
            time.sleep(random.Random(len(self.log)).uniform(1, 12))
            return True
        while not any(event[0] == moment for event in self._events() - seen):
            assert self.process is not None
            if self.process.poll() is not None:
                output = self.process.communicate()[0]
                assert self.process.returncode == 0, output
                return False
            assert time.monotonic() < until, f"no {moment} after {self.log}"
            time.sleep(0.01)
        return True

    def _events(self) -> set[tuple[str, ...]]:
        """Phases that runs have entered, and results that were written, with their times."""
        found = set()
        for run in books._runs(self.folder):
            if run.result():
                found.add(("ended", str(run.path)))
            phases = [event for event in run.events() if isinstance(event, PhaseBegan)]
            found |= {(event.phase, str(run.path), str(event.time)) for event in phases[-1:]}
        return found

    def _kill(self, point: Point) -> None:
        assert self.process is not None
        if point.victim == "server":
            self.server.restart()
        elif point.victim == "driver":
            _kill_family(self.process)
        elif point.victim == "terminate":
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.communicate(timeout=3)
            except Exception:
                _kill_family(self.process)
        else:
            _kill_actor(self.process, ACTORS[point.victim])


def _kill_family(process: "Popen[str]") -> None:
    """The driver first, as if it alone had died; then what Ray has left behind has some time to see it."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=20)
    for one in alive:
        one.kill()


def _kill_actor(process: "Popen[str]", title: str) -> None:
    """One of the processes that do this work, if there is one at this moment."""
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            name = (child.cmdline() or [""])[0]
        except psutil.Error:
            continue
        if name == title or name.startswith(title + "."):
            child.kill()
            return
