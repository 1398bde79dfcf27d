"""How a sweep has spent its time, and how long the rest will take. All times in seconds."""

from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

from gallop_ray.records.events import Event, PhaseBegan, RunContinued, RunPaused, RunStarted, Step
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.records.slots import loads


class RunSeconds:
    """The mean time of a run per method; for a method without a finished run, the mean of all."""

    def __init__(self, finished: Iterable[tuple[str, float]]) -> None:
        """Takes (method, seconds) of each finished run."""
        self._by_method: dict[str, list[float]] = defaultdict(list)
        for method, seconds in finished:
            self._by_method[method].append(seconds)

    def of(self, method: str) -> float | None:
        """Seconds of a run of this method; None before any run has finished."""
        known = self._by_method.get(method) or [each for runs in self._by_method.values() for each in runs]
        return fmean(known) if known else None


def slot_seconds_left(
    seconds: RunSeconds, runs_left: Mapping[str, int], going_on: Iterable[tuple[str, float]]
) -> float | None:
    """Seconds that one slot needs for the remaining runs; None where no run's time is known.

    Args:
        seconds: the time of a run.
        runs_left: remaining runs per method, active ones included.
        going_on: method and seconds since the start of each active run.
    """
    needed = {method: seconds.of(method) for method, count in runs_left.items() if count}
    if None in needed.values():
        return None
    work = sum(runs_left[method] * (each or 0.0) for method, each in needed.items())
    return work - sum(min(since, needed.get(method) or 0.0) for method, since in going_on)


NAMED = ("scoring", "selecting", "training", "evaluating")
"""The phases into which a slot's time is divided; the rest is `other`."""


@dataclass(frozen=True)
class RunTimes:
    """The times of a run's last attempt, by its worker's clock."""

    slot: str
    configuration: str
    started: float
    first_forward: float | None
    last_event: float
    phases: dict[str, float]


@dataclass
class SlotTimes:
    """A slot's time from its first run's start to its last run's end; `other` is none of the named phases.

    Time in which the sweep was not running is left out.
    """

    wall: float
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def other(self) -> float:
        """Attaching, saving, changing the configuration, waiting."""
        return self.wall - sum(self.phases.values())

    def shares(self) -> dict[str, float]:
        """Each phase, and other, as a share of the slot's wall time."""
        spent = {**self.phases, "other": self.other}
        return {name: seconds / self.wall if self.wall else 0.0 for name, seconds in spent.items()}


def run_times(run: RunFolder) -> RunTimes | None:
    """The times of a run from its events, those since it was last continued; None when it has none."""
    return next(reversed(leg_times(run)), None)


def leg_times(run: RunFolder) -> list[RunTimes]:
    """The times of a run, each time that it was trained: a run that was paused may continue in another slot."""
    legs: list[list[Event]] = [[]]
    waits = False
    for event in run.events():
        if isinstance(event, RunContinued):
            legs.append([])
            waits = False
        if not waits and not isinstance(event, Step):  # one that waits may be over while it does
            legs[-1].append(event)
        waits = waits or isinstance(event, RunPaused)
    found = (_leg_times(run.configuration, events) for events in legs if events)
    return [each for each in found if each is not None]


def _leg_times(configuration: str, events: list[Event]) -> RunTimes | None:
    phases: dict[str, float] = defaultdict(float)
    for event, following in pairwise(event for event in events if event.event in ("phase", "run_paused", "run_ended")):
        # A worker whose node is gone may continue for seconds, and end in the middle of the next attempt's events.
        if isinstance(event, PhaseBegan):
            phases[event.phase] += following.time - event.time
    forwards = [event.time for event in events if event.event == "first_forward"]
    started, last = (
        next((event for event in events if isinstance(event, RunStarted | RunContinued)), None),
        events[-1].time,
    )
    if started is None:  # its line is damaged
        return None
    return RunTimes(started.slot, configuration, started.time, forwards[0] if forwards else None, last, dict(phases))


def _stretches(folder: SweepFolder) -> dict[str, list[list[RunTimes]]]:
    """The runs of each slot in order, grouped by the slot's starts: every start of a sweep has its own slot-0."""
    starts: dict[str, set[float]] = defaultdict(set)
    for load in loads(folder):
        starts[load.slot].add(load.slot_started)
    slots: dict[str, dict[int, list[RunTimes]]] = defaultdict(lambda: defaultdict(list))
    every = (times for run in folder.runs() for times in leg_times(run))
    for times in sorted(every, key=lambda leg: leg.started):
        slots[times.slot][bisect(sorted(starts[times.slot]), times.started)].append(times)
    return {slot: list(stretches.values()) for slot, stretches in sorted(slots.items())}


def _span(runs: list[RunTimes]) -> tuple[float, float]:
    return runs[0].started, max(run.last_event for run in runs)


def wall_seconds(folder: SweepFolder) -> float:
    """The time in which any slot was between its first run's start and its last run's end; 0 before any run."""
    spans = sorted(_span(runs) for stretches in _stretches(folder).values() for runs in stretches)
    total, until = 0.0, 0.0
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def slot_times(folder: SweepFolder) -> dict[str, SlotTimes]:
    """How each slot has spent its time."""
    return {
        slot: SlotTimes(
            wall=sum(end - start for start, end in map(_span, stretches)),
            phases={name: sum(run.phases.get(name, 0.0) for runs in stretches for run in runs) for name in NAMED},
        )
        for slot, stretches in _stretches(folder).items()
    }


def switch_seconds(folder: SweepFolder) -> list[float]:
    """The duration of each change of configuration in a slot: from the last event to the next first forward pass."""
    return [
        after.first_forward - before.last_event
        for stretches in _stretches(folder).values()
        for runs in stretches
        for before, after in pairwise(runs)
        if before.configuration != after.configuration and after.first_forward is not None
    ]
