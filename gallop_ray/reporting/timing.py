"""Where the time of a sweep went. All times in seconds."""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

from rich import box
from rich.table import Table

from gallop_ray.tracking.records import SweepFolder
from gallop_ray.tracking.runs import RunFolder

_NAMED = ("scoring", "selecting", "training", "evaluating")


@dataclass(frozen=True)
class RunTimes:
    """The present attempt of a run, by the clock of its worker."""

    slot: str
    configuration: str
    started: float
    first_forward: float | None
    last_event: float
    phases: dict[str, float]


@dataclass
class SlotTimes:
    """What a slot did from its first run's start to its last run's end; `other` is neither of the named phases."""

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
    """The times of a run from its events; None when it has none."""
    events = [event for event in run.events() if event["event"] != "step"]
    if not events:
        return None
    phases: dict[str, float] = defaultdict(float)
    for event, following in pairwise(event for event in events if event["event"] in ("phase", "run_ended")):
        phases[event["phase"]] += following["time"] - event["time"]
    forwards = [event["time"] for event in events if event["event"] == "first_forward"]
    started, last = events[0], events[-1]["time"]
    return RunTimes(
        started["slot"], run.configuration, started["time"], forwards[0] if forwards else None, last, dict(phases)
    )


def _by_slot(folder: SweepFolder) -> dict[str, list[RunTimes]]:
    slots: dict[str, list[RunTimes]] = defaultdict(list)
    for times in filter(None, map(run_times, folder.runs())):
        slots[times.slot].append(times)
    return {slot: sorted(runs, key=lambda run: run.started) for slot, runs in sorted(slots.items())}


def wall_seconds(folder: SweepFolder) -> float:
    """From the first run's start to the last run's last event; 0 before any run."""
    runs = [run for slot in _by_slot(folder).values() for run in slot]
    return max(run.last_event for run in runs) - min(run.started for run in runs) if runs else 0.0


def slot_times(folder: SweepFolder) -> dict[str, SlotTimes]:
    """What each slot spent its time on."""
    return {
        slot: SlotTimes(
            wall=max(run.last_event for run in runs) - runs[0].started,
            phases={name: sum(run.phases.get(name, 0.0) for run in runs) for name in _NAMED},
        )
        for slot, runs in _by_slot(folder).items()
    }


def switch_seconds(folder: SweepFolder) -> list[float]:
    """What each change of configuration in a slot took: from one's last event to the first forward pass of the next."""
    return [
        after.first_forward - before.last_event
        for runs in _by_slot(folder).values()
        for before, after in pairwise(runs)
        if before.configuration != after.configuration and after.first_forward is not None
    ]


def timing_table(folder: SweepFolder) -> Table:
    """Wall time of each slot, and the shares of it in percent."""
    table = Table(title=f"Time: {wall_seconds(folder):.0f} s", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("Slot")
    for heading in ("Seconds", *(name.capitalize() for name in _NAMED), "Other"):
        table.add_column(heading, justify="right")
    for slot, times in slot_times(folder).items():
        table.add_row(slot, f"{times.wall:.0f}", *(f"{100 * share:.0f} %" for share in times.shares().values()))
    return table
