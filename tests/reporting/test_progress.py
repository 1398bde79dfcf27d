"""What the terminal shows, from a sweep folder that grows as a real one does."""

import time
from io import StringIO

import pytest
from rich.console import Console

from gallop_ray.analysis.live import SweepState
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.reporting.progress import SweepDisplay, render, result_line, status_line
from gallop_ray.spec.plan import MethodPlan
from gallop_ray.spec.search import ObjectiveSpec


@pytest.fixture
def folder(tmp_path) -> SweepFolder:
    folder = SweepFolder(tmp_path / "demo")
    folder.create({"name": "demo", "seeds": [0, 1]})
    return folder


def begin(folder: SweepFolder, key: str, seed: int) -> RunFolder:
    folder.configuration(key).create({"method": {"name": "gallop"}})
    run = folder.run(key, seed)
    run.start({}, slot="slot-0")
    return run


def end(run: RunFolder, status: str = "finished", accuracy: float | None = 0.5, reason: str | None = None) -> None:
    run.finish(
        {
            "configuration": run.configuration,
            "seed": run.seed,
            "status": status,
            "reason": reason,
            "val_mean_accuracy": accuracy,
            "seconds": {"total": 60.0},
        }
    )


def planned(runs: int) -> MethodPlan:
    return MethodPlan("gallop", configurations=runs // 2, searched=runs, confirmed=0, steps_per_run=None)


def state_of(folder: SweepFolder, total_runs: int = 6) -> SweepState:
    state = SweepState(folder, [planned(total_runs)], ObjectiveSpec())
    state.look()
    return state


def test_counts_time_left_and_best_so_far(folder):
    state = state_of(folder)
    for seed in (0, 1):
        end(begin(folder, "a", seed))
    folder.configuration("a").write_status("finished", [0, 1], 0.5)
    end(begin(folder, "b", 0), accuracy=0.7)
    run = begin(folder, "b", 1)
    run.event("phase", phase="training")
    for step in (10, 11, 12):
        run.event("step", step=step, steps=100, loss=1.0)
    assert [result.seed for result in state.look()] == [0, 1, 0]
    line = status_line(state)
    assert line.startswith("configurations 1/3, runs 3/6, about 0:03:00 left, best a: val_mean_accuracy 50.0 %; now b")
    assert "b seed 1 training 12/100" in line
    assert state.look() == []


def test_a_confirmation_goes_on_in_a_configuration_that_is_over(folder, monkeypatch):
    monkeypatch.setattr("gallop_ray.records.watch._SETTLED_SECONDS", 0.0)
    for seed in (0, 1):
        end(begin(folder, "a", seed))
    folder.configuration("a").write_status("finished", [0, 1], 0.5)
    plan = MethodPlan("gallop", configurations=1, searched=2, confirmed=1, steps_per_run=None)
    state = SweepState(folder, [plan], ObjectiveSpec())
    state.look()
    assert (state.active, state.runs_left) == ([], 1)
    run = begin(folder, "a", 1000)
    for phase in ("training", "evaluating"):
        run.event("phase", phase=phase)
        state.look()
        assert [(each.seed, each.phase) for each in state.active] == [(1000, phase)]
    end(run)
    assert [result.seed for result in state.look()] == [1000]
    assert (state.active, state.runs_left) == ([], 0)


def test_a_pruned_configuration_spares_its_other_seeds(folder):
    state = state_of(folder)
    end(begin(folder, "a", 0))
    folder.configuration("a").write_status("pruned", [0], 0.5, "below the median")
    state.look()
    assert (state.runs_over, state.runs_left, state.runs_expected) == (1, 4, 5)


def test_failures_are_counted_and_their_reason_is_shown(folder):
    state = state_of(folder)
    end(begin(folder, "a", 0), "diverged", None, "the loss became NaN\nat step 3")
    (result,) = state.look()
    assert result_line(result, ObjectiveSpec()) == "a seed 0 diverged after 60 s: the loss became NaN"
    assert "runs 1/6 (1 failed)" in status_line(state)
    assert state.best() == []


def test_a_run_left_by_a_killed_session_is_not_shown_until_it_goes_on(folder):
    run = begin(folder, "a", 0)
    run.event("phase", phase="training")
    state = state_of(folder)
    assert state.active == []
    run.start({}, slot="slot-1")
    run.event("phase", phase="scoring")
    state.look()
    assert [(one.configuration, one.phase) for one in state.active] == [("a", "scoring")]


def test_what_waits_at_a_rung_is_counted(folder):
    run = begin(folder, "a", 0)
    run.pause({"rung": 0.1, "step": 4, "steps": 36, "loss": 1.0, "seconds": {"total": 1.0}})
    state = state_of(folder)
    assert status_line(state).startswith("configurations 0/3, runs 0/6 (1 waiting at rungs)")


def test_speed_comes_from_the_last_steps(folder):
    state = state_of(folder)
    run = begin(folder, "a", 0)
    run.event("phase", phase="training")
    run.event("step", step=1, steps=9)
    time.sleep(0.1)
    run.event("step", step=2, steps=9)
    state.look()
    speed = state.active[0].steps_per_second
    assert speed is not None
    assert 1 < speed <= 10


def test_without_a_terminal_there_is_a_line_for_each_run_and_a_last_one(folder):
    end(begin(folder, "a", 0))
    output = StringIO()
    with SweepDisplay(folder, [planned(6)], ObjectiveSpec(), Console(file=output, width=60)) as display:
        display.note("[slot-0] started: a line longer than sixty columns stays one line of text")
        end(begin(folder, "a", 1), accuracy=0.7)
    assert output.getvalue().splitlines() == [
        "[slot-0] started: a line longer than sixty columns stays one line of text",
        "a seed 1 finished after 60 s: val_mean_accuracy 70.0 %",
        "configurations 0/3, runs 2/6, about 0:04:00 left, best a: val_mean_accuracy 60.0 %",
    ]


def test_a_terminal_gets_a_display_that_stays_at_the_end(folder):
    output = StringIO()
    console = Console(file=output, width=100, force_terminal=True, color_system=None)
    with SweepDisplay(folder, [planned(6)], ObjectiveSpec(), console):
        run = begin(folder, "a", 0)
        run.event("phase", phase="evaluating")
        deadline = time.monotonic() + 20
        while "a seed 0 evaluating" not in output.getvalue():
            assert time.monotonic() < deadline, "the run did not appear"
            time.sleep(0.05)
        end(run)
    shown = output.getvalue()
    assert "a seed 0 finished after 60 s" in shown
    assert shown.rindex("runs 1/6") > shown.rindex("runs 0/6")


def test_the_display_fits_a_hundred_columns(folder):
    state = state_of(folder)
    run = begin(folder, "gallop-0123abcd", 0)
    run.event("phase", phase="training")
    run.event("step", step=1, steps=9)
    state.look()
    console = Console(file=StringIO(), width=100, record=True)
    console.print(render(state))
    lines = console.export_text().splitlines()
    assert len(lines) == 2
    assert lines[1] == "  gallop-0123abcd seed 0 training 1/9"


def test_evaluating_is_counted_with_what_it_is_of_and_the_time_left(folder):
    state = state_of(folder)
    run = begin(folder, "a", 0)
    run.event("phase", phase="evaluating")
    state.look()
    assert status_line(state).endswith("now a seed 0 evaluating")
    run.event("progress", done=100, total=400, what="max, test by generation")
    (active,) = state.look() or state.active
    active.last_event = active.phase_began + 60
    said = "a seed 0 evaluating 100/400 examples (max, test by generation), about 0:03:00 left"
    assert status_line(state).endswith(f"now {said}")
    run.event("phase", phase="saving")
    state.look()
    assert status_line(state).endswith("now a seed 0 saving")


def test_while_the_base_model_is_measured_that_is_said(folder):
    state = state_of(folder)
    folder.note_base_progress(30, 120, "max, validation by likelihood")
    said = "measuring the base model, 30/120 examples (max, validation by likelihood)"
    assert status_line(state).endswith(said)
    assert said in shown_by(render(state))
    folder.write_base({}, {}, {}, None)
    assert "measuring" not in status_line(state)


def shown_by(group) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(group)
    return console.file.getvalue()
