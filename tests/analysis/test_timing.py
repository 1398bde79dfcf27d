"""Where the time went, from events with known times."""

from io import StringIO

import pytest
from rich.console import Console

from gallop_ray.analysis.timing import slot_times, switch_seconds, wall_seconds
from gallop_ray.records.files import write_lines
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.slots import note_loaded
from gallop_ray.reporting.summary import timing_table


def write_run(folder: SweepFolder, key: str, seed: int, slot: str, start: float, forward: float = 1.0) -> None:
    """A run of 10 s: 1 s before its first phase, 2 s scoring, 1 s selecting, 4 s training, 2 s saving."""
    folder.configuration(key).create({"method": {}})
    run = folder.run(key, seed)
    run.path.mkdir()
    events = [
        {"time": 0, "event": "run_started", "slot": slot, "attempt": 1},
        {"time": forward, "event": "first_forward"},
        {"time": 1, "event": "phase", "phase": "scoring"},
        {"time": 3, "event": "phase", "phase": "selecting"},
        {"time": 4, "event": "phase", "phase": "training"},
        {"time": 5, "event": "step", "step": 1},
        {"time": 8, "event": "phase", "phase": "saving"},
        {"time": 10, "event": "run_ended"},
    ]
    write_lines(run.metrics, [{**event, "time": start + event["time"]} for event in events])


@pytest.fixture
def folder(tmp_path) -> SweepFolder:
    folder = SweepFolder(tmp_path)
    write_run(folder, "a", 0, "slot-0", 100)
    write_run(folder, "a", 1, "slot-0", 110)
    write_run(folder, "b", 0, "slot-0", 120.5, forward=0.25)
    write_run(folder, "c", 0, "slot-1", 105)
    return folder


def test_a_slots_time_is_shared_out_completely(folder):
    times = slot_times(folder)
    assert times["slot-0"].wall == 30.5
    assert times["slot-0"].phases == {"scoring": 6, "selecting": 3, "training": 12, "evaluating": 0}
    assert times["slot-0"].other == 9.5
    assert sum(times["slot-0"].shares().values()) == pytest.approx(1)
    assert wall_seconds(folder) == 30.5


def test_the_time_between_two_starts_of_a_sweep_is_not_counted(folder):
    for started in (90, 95, 99, 990):  # slot-0 three times: its workers died once, and a second start of the sweep
        slot = "slot-1" if started == 99 else "slot-0"
        note_loaded(folder, slot, 90 if started == 95 else started, "pocket", 1, 1.0)
    write_run(folder, "d", 0, "slot-0", 1000)
    write_run(folder, "e", 0, "slot-0", 1011)
    assert slot_times(folder)["slot-0"].wall == 30.5 + 21
    assert wall_seconds(folder) == 30.5 + 21
    assert switch_seconds(folder) == [0.75, 2.0]


def test_only_a_change_of_configuration_in_the_same_slot_is_a_switch(folder):
    assert switch_seconds(folder) == [0.75]


def test_a_lost_worker_that_ends_in_between_does_no_harm(folder):
    run = folder.run("c", 0)
    lines = [event.as_json() for event in run.events()]
    write_lines(run.metrics, [*lines[:6], {"time": 110, "event": "run_ended"}, *lines[6:]])
    assert slot_times(folder)["slot-1"].phases["training"] == 1


def test_the_table_and_an_empty_sweep(folder, tmp_path):
    output = StringIO()
    Console(file=output, width=100).print(timing_table(folder))
    rows = [line.split() for line in output.getvalue().splitlines() if line.strip().startswith("slot-1")]
    assert rows == [["slot-1", "10", "20", "%", "10", "%", "40", "%", "0", "%", "30", "%"]]
    empty = SweepFolder(tmp_path / "empty")
    empty.path.mkdir()
    assert (wall_seconds(empty), slot_times(empty), switch_seconds(empty)) == (0.0, {}, [])
