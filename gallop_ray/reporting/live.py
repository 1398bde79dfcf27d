"""What goes on in a sweep just now, read from its folder: of a run that goes on only what is new, of others nothing."""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from gallop_ray.spec.schema import ObjectiveSpec
from gallop_ray.tracking.files import Record
from gallop_ray.tracking.records import FINAL, ConfigurationFolder, RunFolder, SweepFolder
from gallop_ray.tracking.summary import mean_and_std
from gallop_ray.tracking.watch import OpenConfigurations

_STEPS_FOR_SPEED = 20


@dataclass
class ActiveRun:
    """How far a run has come."""

    configuration: str
    seed: int
    attempt: int = 0
    offset: int = 0
    phase: str = "starting"
    step: int = 0
    steps: int = 0
    moving: bool = False
    times: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_STEPS_FOR_SPEED))

    def take(self, event: Record) -> None:
        """Bring the state up to date with an event."""
        if event["event"] == "run_started":
            self.phase, self.step = "starting", 0
            self.times.clear()
        elif event["event"] == "phase":
            self.phase = event["phase"]
        elif event["event"] == "step":
            self.step, self.steps = event["step"], event["steps"]
            self.times.append((event["time"], event["step"]))

    @property
    def steps_per_second(self) -> float | None:
        """Over the last steps; null before the second step."""
        if len(self.times) < 2 or self.times[-1][0] <= self.times[0][0]:
            return None
        return (self.times[-1][1] - self.times[0][1]) / (self.times[-1][0] - self.times[0][0])


class SweepState:
    """The present state of a sweep; `look` brings it up to date.

    Args:
        folder: the sweep's records.
        total_runs: runs of the whole sweep, if no configuration is stopped early.
        objective: what the search goes by.
    """

    def __init__(self, folder: SweepFolder, total_runs: int, objective: ObjectiveSpec) -> None:
        self.objective = objective
        self._seeds = len(folder.spec()["seeds"])
        self.total_configurations = total_runs // self._seeds
        self._total_runs = total_runs
        self._looked = False
        self._open = OpenConfigurations(folder)
        self._results: dict[Path, Record] = {}
        self._active: dict[Path, ActiveRun] = {}
        self._over: dict[str, tuple[Record, int]] = {}

    def look(self) -> list[Record]:
        """Read what is new; returns the results of runs that ended since the last look."""
        news: list[Record] = []
        for configuration in self._open.look():
            status = configuration.status()
            runs = configuration.runs()
            news += [result for run in runs if (result := self._look_at(run))]
            self._note_status(configuration, status, runs)
        self._looked = True
        return news

    def _note_status(self, configuration: ConfigurationFolder, status: Record, runs: list[RunFolder]) -> None:
        self._over.pop(configuration.key, None)
        if status["status"] in FINAL:
            self._over[configuration.key] = (status, len(runs))
            for run in runs:
                self._active.pop(run.path, None)
            self._open.close(configuration)

    def _look_at(self, run: RunFolder) -> Record | None:
        """Follow a run; its result when it has just ended."""
        if run.path in self._results and self._results[run.path]["status"] == "finished":
            return None
        result = run.result()
        if result is not None:
            self._active.pop(run.path, None)
            known = self._results.get(run.path)
            self._results[run.path] = result
            return None if known == result else result
        self._follow(run)
        return None

    def _follow(self, run: RunFolder) -> None:
        active = self._active.setdefault(run.path, ActiveRun(run.configuration, run.seed))
        tail = run.tail(active.offset, active.attempt)
        for event in tail.events:
            active.take(event)
        active.attempt, active.offset = tail.attempt, tail.offset
        # What the first look finds may have been left by a session that was killed; it counts when it moves.
        active.moving = active.moving or (bool(tail.events) and self._looked)

    @property
    def active(self) -> list[ActiveRun]:
        """The runs that go on, by configuration and seed."""
        return [run for _, run in sorted(self._active.items()) if run.moving]

    @property
    def configurations_over(self) -> int:
        """How many configurations have ended, however they did."""
        return len(self._over)

    @property
    def runs_over(self) -> int:
        """How many runs have ended, however they did."""
        return len(self._results)

    @property
    def runs_failed(self) -> int:
        """How many runs have failed or diverged."""
        return sum(result["status"] != "finished" for result in self._results.values())

    @property
    def runs_left(self) -> int:
        """How many runs are still to end; configurations that ended early leave none."""
        spared = sum(max(0, self._seeds - runs) for _, runs in self._over.values())
        return max(0, self._total_runs - self.runs_over - spared)

    @property
    def runs_expected(self) -> int:
        """How many runs there will have been."""
        return self.runs_over + self.runs_left

    def seconds_left(self) -> float | None:
        """By the mean time of a finished run and the runs that go on side by side; null before one has finished."""
        totals = (result.get("seconds", {}).get("total") for result in self._results.values())
        mean, _ = mean_and_std(totals)
        return None if mean is None else self.runs_left * mean / max(1, len(self.active))

    def best(self) -> tuple[str, float] | None:
        """Key and objective of the best configuration that has ended; null where a front of several is sought."""
        if self.objective.metrics:
            return None
        known = [(key, status["objective"]) for key, (status, _) in self._over.items()]
        scored = [(key, value) for key, value in known if value is not None]
        choose = max if self.objective.maximize else min
        return choose(scored, key=lambda one: one[1]) if scored else None
