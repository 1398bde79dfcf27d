"""What a sweep is doing now, read from its folder: only what is new of active runs, nothing of others."""

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gallop_ray.analysis.ranking import Summary, best
from gallop_ray.analysis.timing import RunSeconds, slot_seconds_left
from gallop_ray.records.events import Event, PhaseBegan, Progress, RunContinued, RunPaused, RunStarted, Step
from gallop_ray.records.folders import ConfigurationFolder, SweepFolder
from gallop_ray.records.results import BaseProgress, ConfigurationStatus, EndedRun, RunResult
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.records.watch import OpenConfigurations
from gallop_ray.spec.plan import MethodPlan
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.search import ObjectiveSpec

_STEPS_FOR_SPEED = 20


@dataclass
class ActiveRun:
    """The progress of a run."""

    configuration: str
    seed: int
    attempt: int = 0
    offset: int = 0
    phase: str = "starting"
    slot: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    started: float = 0.0
    last_event: float = 0.0
    moving: bool = False
    done: int = 0
    total: int = 0
    what: str = ""
    phase_began: float = 0.0
    waiting: bool = False
    """Whether it was put aside at a rung."""
    times: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_STEPS_FOR_SPEED))

    def take(self, event: Event) -> None:
        """Update the state with an event."""
        self.last_event, self.waiting = event.time, False
        if isinstance(event, RunStarted):
            self.phase, self.step, self.loss = "starting", 0, None
            self.slot, self.started = event.slot, event.time
            self.times.clear()
        elif isinstance(event, RunPaused):
            self.waiting, self.phase, self.step = True, "waiting", event.step
        elif isinstance(event, RunContinued):
            self.slot, self.phase = event.slot, "starting"
            self.times.clear()
        elif isinstance(event, PhaseBegan):
            self.phase, self.phase_began, self.done, self.total = event.phase, event.time, 0, 0
        elif isinstance(event, Progress):
            self.done, self.total, self.what = event.done, event.total, event.what
        elif isinstance(event, Step):
            self.step, self.loss = event.step, event.loss
            self.steps = self.steps if event.steps is None else event.steps
            self.times.append((event.time, event.step))

    @property
    def phase_seconds_left(self) -> float | None:
        """What the rest of the phase takes at its speed so far; None where examples are not counted."""
        if not 0 < self.done <= self.total:
            return None
        return (self.last_event - self.phase_began) * (self.total - self.done) / self.done

    @property
    def steps_per_second(self) -> float | None:
        """Over the last steps; None before the second one."""
        if len(self.times) < 2 or self.times[-1][0] <= self.times[0][0]:
            return None
        return (self.times[-1][1] - self.times[0][1]) / (self.times[-1][0] - self.times[0][0])


class SweepState:
    """The present state of a sweep; `look` updates it.

    Args:
        folder: the sweep's records.
        planned: the work of each method, if no configuration is stopped early.
        objective: the search's objective.
        since: when the driver that runs the sweep started; unfinished runs that started later are active. Without it a
            run counts as active once something new is seen of it.
    """

    def __init__(
        self, folder: SweepFolder, planned: Sequence[MethodPlan], objective: ObjectiveSpec, since: float | None = None
    ) -> None:
        self.objective = objective
        self._since = since
        self._seeds = set(folder.spec().get("seeds", Sweep.model_fields["seeds"].default))
        self.total_configurations = sum(plan.configurations for plan in planned)
        self._planned = planned
        self._looked = False
        self._folder = folder
        self._open = OpenConfigurations(folder)
        self._results: dict[Path, EndedRun] = {}
        self._active: dict[Path, ActiveRun] = {}
        self._over: dict[str, tuple[ConfigurationStatus, int]] = {}
        self._methods: dict[str, str] = {}
        self._side_by_side = 1

    def look(self) -> list[RunResult]:
        """Read what is new. Returns the results of runs that ended since the last look."""
        news: list[RunResult] = []
        for configuration in self._open.look():
            status = configuration.status()  # before the runs: it is written after their results
            if configuration.key not in self._methods:
                self._methods[configuration.key] = configuration.method_name()
            runs = configuration.runs()
            news += [result for run in runs if (result := self._look_at(run))]
            self._note_status(configuration, status, runs)
        self._looked = True
        self._side_by_side = len(self.active) or self._side_by_side
        return news

    def _note_status(
        self, configuration: ConfigurationFolder, status: ConfigurationStatus, runs: list[RunFolder]
    ) -> None:
        self._over.pop(configuration.key, None)  # a retry may have reopened it
        if status.over:
            self._over[configuration.key] = (status, sum(run.seed in self._seeds for run in runs))
            for run in runs:
                if run.seed in self._seeds:
                    self._active.pop(run.path, None)
            if not any(run.path in self._active for run in runs):  # a confirmation may be active
                self._open.close(configuration)

    def _look_at(self, run: RunFolder) -> RunResult | None:
        """Follow a run. Returns its result when it has just ended."""
        known = self._results.get(run.path)
        if known is not None and known.finished:
            return None
        result = run.result()
        if result is not None:
            self._active.pop(run.path, None)
            kept = result.essence(self.objective.metric)
            self._results[run.path] = kept
            return None if known == kept else result
        self._results.pop(run.path, None)  # another attempt at it
        self._follow(run)
        return None

    def _follow(self, run: RunFolder) -> None:
        active = self._active.setdefault(run.path, ActiveRun(run.configuration, run.seed))
        tail = run.tail(active.offset, active.attempt)
        for event in tail.events:
            active.take(event)
        active.attempt, active.offset = tail.attempt, tail.offset
        # What the first look finds may have been left by a killed driver: it counts once it moves.
        begun = self._since is not None and active.started >= self._since
        active.moving = active.moving or begun or (bool(tail.events) and self._looked)

    def base_progress(self) -> BaseProgress | None:
        """How far the measurement of the base model is, for which all runs wait; None while none is reported."""
        return self._folder.base_progress()

    @property
    def active(self) -> list[ActiveRun]:
        """The active runs, by configuration and seed."""
        return [run for _, run in sorted(self._active.items()) if run.moving and not run.waiting]

    @property
    def half_done(self) -> list[ActiveRun]:
        """The runs that were started and interrupted, by configuration and seed."""
        return [run for _, run in sorted(self._active.items()) if not run.moving and not run.waiting]

    @property
    def waiting(self) -> list[ActiveRun]:
        """The runs that were put aside at a rung, by configuration and seed."""
        return [run for _, run in sorted(self._active.items()) if run.waiting]

    @property
    def methods(self) -> dict[str, str]:
        """The method of each configuration that has started, by key."""
        return self._methods

    @property
    def over(self) -> dict[str, ConfigurationStatus]:
        """The status of each configuration that has ended, by key."""
        return {key: status for key, (status, _) in self._over.items()}

    @property
    def results(self) -> list[EndedRun]:
        """The results of the runs that have ended, reduced to what is needed here."""
        return list(self._results.values())

    @property
    def configurations_over(self) -> int:
        """How many configurations have ended, in whatever way."""
        return len(self._over)

    @property
    def runs_over(self) -> int:
        """How many runs have ended, in whatever way."""
        return len(self._results)

    @property
    def runs_failed(self) -> int:
        """How many runs have failed or diverged."""
        return sum(result.failed for result in self._results.values())

    @property
    def runs_left_of(self) -> dict[str, int]:
        """How many runs of each method remain, active ones included; configurations that ended early leave none."""
        searched, confirmed = Counter[str](), Counter[str]()
        for path, result in self._results.items():
            stage = searched if result.seed in self._seeds else confirmed
            stage[self._methods[path.parent.name]] += 1
        for key, (_, runs) in self._over.items():
            searched[self._methods[key]] += max(0, len(self._seeds) - runs)
        return {
            plan.method: max(0, plan.searched - searched[plan.method]) + max(0, plan.confirmed - confirmed[plan.method])
            for plan in self._planned
        }

    @property
    def runs_left(self) -> int:
        """How many runs remain, active ones included."""
        return sum(self.runs_left_of.values())

    @property
    def runs_expected(self) -> int:
        """How many runs there will be in total."""
        return self.runs_over + self.runs_left

    def run_seconds(self) -> RunSeconds:
        """The times of the runs that have ended, by method."""
        return RunSeconds(
            (self._methods[path.parent.name], result.total_seconds)
            for path, result in self._results.items()
            if result.total_seconds is not None and result.status != "pruned"
        )

    def slot_seconds_left(self) -> float | None:
        """Seconds that one slot would need for the remaining runs, by those that have ended; None before the first."""
        going_on = [(self._methods[run.configuration], time.time() - run.started) for run in self.active]
        return slot_seconds_left(self.run_seconds(), self.runs_left_of, going_on)

    def seconds_left(self) -> float | None:
        """The same for as many slots as were last seen working."""
        work = self.slot_seconds_left()
        return None if work is None else work / self._side_by_side

    def best(self) -> list[Summary]:
        """The best configuration of each method so far, the overall best first; empty for several objectives."""
        return [] if self.objective.metrics else best(self._results.values(), self.objective)
