"""How a sweep stands, from folders written by hand."""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from gallop_ray.analysis.status import Counts, StatusReader
from gallop_ray.cli import main
from gallop_ray.records import control
from gallop_ray.reporting.progress import found_line
from gallop_ray.reporting.status import render
from tests.sweep.written import Written, small_sweep


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """gallop at 0.1 finished, at 0.2 half-done at step 40; random diverged."""
    written = Written(small_sweep(tmp_path))
    for seed, accuracy in ((0, 0.4), (1, 0.6)):
        written.end(written.begin("gallop", 0.1, seed), accuracy)
    run = written.begin("gallop", 0.2, 0)
    run.event("step", step=45, steps=120, loss=1.25)
    save_file({"step": np.array(40)}, run.checkpoint)
    written.end(written.begin("random", 1e-4, 0), None, "diverged")
    return written


def test_counts_of_a_sweep_that_does_not_run(written: Written) -> None:
    status = StatusReader(written.folder, written.sweep).look()
    assert status.state == "not running"
    assert status.driver is None
    assert status.runs == Counts(total=6, finished=2, running=0, pruned=1, failed=1, to_do=2)
    gallop = status.methods["gallop"]
    assert gallop.configurations == Counts(total=2, finished=1, running=0, pruned=0, failed=0, to_do=1)
    assert status.slot_seconds_left == 2 * 60
    (half,) = status.half_done
    assert (half.seed, half.checkpoint_step, half.steps) == (0, 40, 120)
    assert status.best == gallop.best
    assert status.methods["random"].best is None
    (diverged,) = status.failed
    assert (diverged.status, diverged.reason) == ("diverged", "[/tcp/pair.cc:5] it diverged")


def test_a_start_says_what_it_finds(written: Written, tmp_path: Path) -> None:
    line = found_line(StatusReader(written.folder, written.sweep).look())
    key = next(run.configuration for run in written.folder.runs() if run.checkpoint.exists())
    assert line == f"found 2 of 6 runs finished, 1 half-done ({key} seed 0 at step 40), 1 failed, 1 pruned, 1 pending"
    fresh = Written(small_sweep(tmp_path, name="fresh"))
    assert found_line(StatusReader(fresh.folder, fresh.sweep).look()) == ""


def test_finished_rounds_count_as_kept(written: Written) -> None:
    run = written.begin("gallop", 0.2, 1)
    run.event("step", step=130, steps=240, round="max", loss=1.0)
    for task in ("range", "max"):
        run.round(task).begin({"round": task})
    run.round("range").end({"status": "finished", "steps": 120})
    status = StatusReader(written.folder, written.sweep)
    assert [half.checkpoint_step for half in status.look().half_done] == [40, 120]
    save_file({"step": np.array(8)}, run.round("max").checkpoint)
    assert [half.checkpoint_step for half in status.look().half_done] == [40, 128]
    run.round("max").end({"status": "finished", "steps": 120})
    assert [part.configuration for part in run.parts()] == [run.configuration] * 2


def test_while_a_driver_lives_its_runs_go_on_and_others_do_not(written: Written) -> None:
    with control.alone(written.folder):
        control.begin(written.folder)
        status = StatusReader(written.folder, written.sweep)
        assert [run.seed for run in status.look().half_done] == [0]
        run = written.begin("gallop", 0.2, 0, slot="slot-1")
        run.event("phase", phase="training")
        run.event("step", step=60, steps=120, loss=0.75)
        now = status.look()
        assert (now.state, now.half_done) == ("running", ())
        assert now.runs.running == now.methods["gallop"].configurations.running == 1
        (active,) = now.running
        assert (active.slot, active.step, active.loss) == ("slot-1", 60, 0.75)
        assert active.attempt == 2
        assert 0 <= active.seconds_since_event < 30
        assert now.seconds_left is not None
        assert 0 < now.seconds_left <= 2 * 60
        for asked, state in (("pause", "pausing"), ("stop", "stopping")):
            control.ask(written.folder, asked)  # type: ignore[arg-type]
            assert status.look().state == state
        control.ask(written.folder, "pause")
        written.end(run)
        assert (status.look().state, status.look().seconds_left) == ("paused", None)
    assert status.look().state == "not running"


def test_the_display_names_what_matters(written: Written) -> None:
    console = Console(width=120, record=True)
    console.print(render(StatusReader(written.folder, written.sweep).look()))
    text = console.export_text()
    for words in (
        "small: not running",
        "total",
        "Active",
        "Remaining",
        "at step 40",
        "diverged: random-",
        "best gallop-",
        "0.0333 slot-h",
    ):
        assert words in text, text


@pytest.mark.slow
def test_the_command_prints_one_object_and_imports_nothing_heavy(written: Written) -> None:
    program = "import sys\nfrom gallop_ray.cli import main\ncode = main(sys.argv[1:])\n"
    program += "print([name for name in ('torch', 'ray', 'optuna', 'mlflow') if name in sys.modules], code)"
    command = [sys.executable, "-c", program, "status", str(written.folder.path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    record, heavy = done.stdout.strip().splitlines()
    assert json.loads(record)["name"] == "small"
    assert heavy == "[] 0"


def test_follow_ends_when_no_process_runs_the_sweep(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(written.folder.path), "--json", "--follow"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.slow
def test_follow_into_a_pipe_says_each_change_at_once(written: Written) -> None:
    command = [sys.executable, "-m", "gallop_ray", "status", str(written.folder.path), "--follow"]
    with ExitStack() as driver:
        driver.enter_context(control.alone(written.folder))
        control.begin(written.folder)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
            assert follower.stdout is not None
            first = follower.stdout.readline()
            assert first.startswith("small: running, pid ")
            assert "; 2 of 6 runs finished, 1 failed; waiting: a slot to load the model" in first
            written.folder.write_base({}, {}, {}, None)
            run = written.begin("gallop", 0.2, 0)
            run.event("phase", phase="evaluating")
            run.event("progress", done=1, total=8, what="max, test")
            second = follower.stdout.readline()
            assert f"; slot-0: {run.configuration} seed 0 evaluating, 1/8 examples (max, test), about " in second
            control.ask(written.folder, "stop")
            assert follower.stdout.readline().startswith("small: stopping")
            driver.close()
            rest = follower.stdout.read()
    assert "Configurations" in rest, "the whole status at the end"


@pytest.mark.parametrize("command", ["status", "best", "pause", "stop", "resume", "retry"])
def test_a_folder_that_is_no_sweep_is_refused(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--failed"] if command == "retry" else []
    assert main([command, str(tmp_path), *more]) == 2
    assert "is not a sweep: it has no spec.json" in capsys.readouterr().err
    assert main([command, str(tmp_path / "missing"), *more]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_folder_that_was_moved_is_read_where_it_lies(written: Written, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    written.folder.path.rename(moved)
    done = subprocess.run(
        [sys.executable, "-m", "gallop_ray", "status", str(moved)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("renamed: not running")
