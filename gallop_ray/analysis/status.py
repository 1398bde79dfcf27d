"""The status of a sweep, active or not, from its folder: what `gallop-ray status --json` prints."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from gallop_ray.analysis.diagnoses import Diagnosis, diagnoses
from gallop_ray.analysis.edges import edges_of
from gallop_ray.analysis.live import ActiveRun, SweepState
from gallop_ray.analysis.ranking import Summary
from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.disk.tensors import opened as opened_tensors
from gallop_ray.records import control
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import EndedRun
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.spec.plan import MethodPlan, plan_sweep
from gallop_ray.spec.schema import Sweep

State = Literal["running", "pausing", "paused", "stopping", "finished", "not running"]


@dataclass(frozen=True)
class Counts:
    """Configurations, or runs, by status. `pruned` runs were stopped early or never run; `failed`: or diverged."""

    total: int
    finished: int
    pruned: int
    failed: int
    running: int
    to_do: int


@dataclass(frozen=True)
class Best:
    """A best configuration, its objective, and sentences about its values at an edge of their range."""

    configuration: str
    objective: float | None
    edges: tuple[str, ...]


@dataclass(frozen=True)
class MethodStatus:
    """The status of one method."""

    configurations: Counts
    runs: Counts
    best: Best | None


@dataclass(frozen=True)
class Running:
    """An active run."""

    configuration: str
    seed: int
    slot: str
    attempt: int
    phase: str
    step: int
    steps: int
    loss: float | None
    seconds_since_event: float
    done: int = 0
    total: int = 0
    what: str = ""
    phase_seconds_left: float | None = None


@dataclass(frozen=True)
class HalfDone:
    """An interrupted run; `checkpoint_step` is null without a checkpoint."""

    configuration: str
    seed: int
    checkpoint_step: int | None
    steps: int


@dataclass(frozen=True)
class Failed:
    """A run that failed or diverged."""

    configuration: str
    seed: int
    status: str
    reason: str | None


@dataclass(frozen=True)
class DriverStatus:
    """The process that runs the sweep."""

    host: str | None
    pid: int | None
    started: float | None
    slots: int | None


@dataclass(frozen=True)
class SweepStatus:
    """The status of a sweep at one moment; docs/records.md defines the fields."""

    name: str
    folder: str
    state: State
    driver: DriverStatus | None
    configurations: Counts
    runs: Counts
    methods: dict[str, MethodStatus]
    objective: str
    best: Best | None
    seconds_left: float | None
    slot_seconds_left: float | None
    running: tuple[Running, ...]
    half_done: tuple[HalfDone, ...]
    waiting: tuple[HalfDone, ...]
    failed: tuple[Failed, ...]
    diagnoses: tuple[Diagnosis, ...] = ()
    waits_for: str | None = None


class StatusReader:
    """Follows a sweep; `look` reads only what may have changed."""

    def __init__(self, folder: SweepFolder, sweep: Sweep) -> None:
        self._folder, self._sweep = folder, sweep
        self._planned = {plan.method: plan for plan in plan_sweep(sweep, None).methods}
        self._driver: control.Driver | None = None
        self._diagnosed: tuple[int, tuple[Diagnosis, ...]] = 0, ()
        self._state = self._new_state()

    def _new_state(self) -> SweepState:
        since = self._driver.started if self._driver else None
        return SweepState(self._folder, list(self._planned.values()), self._sweep.objective, since)

    def look(self) -> SweepStatus:
        """The present status."""
        driver = control.driver(self._folder)
        if driver != self._driver:  # what was active under another driver no longer is
            self._driver = driver
            self._state = self._new_state()
        self._state.look()
        return self._status()

    def _status(self) -> SweepStatus:
        state, best = self._state, self._state.best()
        methods = self._methods({each.method: each for each in best})
        runs = _total(each.runs for each in methods.values())
        word = self._word(runs.to_do + runs.running)
        return SweepStatus(
            name=self._sweep.name,
            folder=str(self._folder.path),
            state=word,
            driver=_driver(self._driver),
            configurations=_total(each.configurations for each in methods.values()),
            runs=runs,
            methods=methods,
            objective=self._sweep.objective.metric,
            best=self._best(best[0] if best else None),
            seconds_left=None if word == "paused" else state.seconds_left(),
            slot_seconds_left=state.slot_seconds_left(),
            running=tuple(map(_running, state.active)),
            half_done=tuple(_half_done(run, self._folder) for run in state.half_done),
            waiting=tuple(HalfDone(run.configuration, run.seed, run.step, run.steps) for run in state.waiting),
            failed=tuple(_failed(result) for result in state.results if result.failed),
            diagnoses=self._diagnoses(len(state.results)),
            waits_for=waits_for(state, self._folder) if self._driver and not state.active else None,
        )

    def _diagnoses(self, ended: int) -> tuple[Diagnosis, ...]:
        """From the whole records, of which the state keeps little; looked for again only when a run has ended."""
        if ended != self._diagnosed[0]:
            self._diagnosed = ended, tuple(diagnoses(self._folder, self._sweep))
        return self._diagnosed[1]

    def _word(self, left: int) -> State:
        if self._driver is None:
            return "finished" if not left else "not running"
        asked = control.asked(self._folder)
        if asked == "pause":
            return "pausing" if self._state.active else "paused"
        return "running" if asked is None else "stopping"

    def _methods(self, best: dict[str, Summary]) -> dict[str, MethodStatus]:
        begun = Counter(self._state.methods.values())
        ends: dict[str, Counter[str]] = {name: Counter() for name in self._planned}
        active: dict[str, set[str]] = {name: set() for name in self._planned}
        for key, status in self._state.over.items():
            ends.setdefault(self._state.methods[key], Counter())[_end(status.status)] += 1
        for run in self._state.active:
            active.setdefault(self._state.methods[run.configuration], set()).add(run.configuration)
        return {
            name: MethodStatus(
                _counted(max(plan.configurations, begun[name]), ends[name], len(active[name])),
                self._runs(plan, max(plan.configurations, begun[name])),
                self._best(best.get(name)),
            )
            for name, plan in self._planned.items()
        }

    def _best(self, best: Summary | None) -> Best | None:
        if best is None:
            return None
        found = edges_of(self._folder, self._sweep, [best]).get(best.configuration, ())
        return Best(best.configuration, best.values[0], tuple(map(str, found)))

    def _runs(self, plan: MethodPlan, configurations: int) -> Counts:
        state, methods, method = self._state, self._state.methods, plan.method
        total = configurations * len(self._sweep.seeds) + plan.confirmed
        ends = Counter(_end(each.status) for each in state.results if methods[each.configuration] == method)
        active = sum(methods[run.configuration] == method for run in state.active)
        left = state.runs_left_of[method]
        return Counts(
            total=total,
            finished=ends["finished"],
            # Seeds that will not run because their configuration was pruned or failed.
            pruned=total - sum(ends.values()) - left + ends["pruned"],
            failed=ends["failed"],
            running=active,
            to_do=left - active,
        )


def waits_for(state: SweepState, folder: SweepFolder) -> str | None:
    """What no run has begun for; None where nothing is known to be in the way.

    Args:
        state: of a sweep whose driver lives, and none of whose runs is active.
    """
    if (base := state.base_progress()) is not None:
        return f"the base model is measured, {counted(base.done, base.total, base.what)}"
    if folder.base() is None:
        return "a slot to load the model, and the base model to be measured"
    return None


def counted(done: int, total: int, what: str) -> str:
    """Examples that are done of those of a phase."""
    return f"{done}/{total} examples{what and f' ({what})'}"


def _end(status: str) -> str:
    return "failed" if status == "diverged" else status


def _counted(total: int, ends: "Counter[str]", active: int) -> Counts:
    left = total - sum(ends.values())
    return Counts(total, ends["finished"], ends["pruned"], ends["failed"], active, left - active)


def _total(counts: Iterable[Counts]) -> Counts:
    each = list(counts)
    return Counts(*(sum(getattr(count, name) for count in each) for name in Counts.__dataclass_fields__))


def _driver(driver: control.Driver | None) -> DriverStatus | None:
    return None if driver is None else DriverStatus(driver.host, driver.pid, driver.started, driver.slots)


def _running(run: ActiveRun) -> Running:
    return Running(
        configuration=run.configuration,
        seed=run.seed,
        slot=run.slot,
        attempt=run.attempt,
        phase=run.phase,
        step=run.step,
        steps=run.steps,
        loss=run.loss,
        seconds_since_event=round(time.time() - run.last_event, 1),
        done=run.done,
        total=run.total,
        what=run.what,
        phase_seconds_left=run.phase_seconds_left,
    )


def _half_done(run: ActiveRun, folder: SweepFolder) -> HalfDone:
    step = checkpoint_step(folder.run(run.configuration, run.seed))
    return HalfDone(run.configuration, run.seed, step, run.steps)


def checkpoint_step(run: RunFolder) -> int | None:
    """The step of a run's last checkpoint, counting finished rounds as such; None without any."""
    steps = [_kept_step(part) for part in run.parts()]
    known = [step for step in steps if step is not None]
    return sum(known) if known else None


def _kept_step(part: RunFolder) -> int | None:
    result = part.result()
    if result is not None:
        return result.steps
    try:
        with opened_tensors(part.checkpoint) as file:
            return int(file.get_tensor("step"))
    except FileNotFoundError:
        return None
    except (Damaged, TypeError) as error:
        note_damage(part.checkpoint, getattr(error, "reason", "has no step"), "the run begins from its start")
        return None


def _failed(result: EndedRun) -> Failed:
    return Failed(result.configuration, result.seed, result.status, result.reason)
