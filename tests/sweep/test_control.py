"""A sweep handled from outside while it runs: paused, stopped, terminated, resumed, given another seed."""

import io
import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from gallop_ray.analysis.status import StatusReader, SweepStatus
from gallop_ray.cli import main
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.stored import open_sweep
from tests.sweep import command

pytestmark = pytest.mark.faults


class Handled:
    """A sweep, the process that runs it, and what was seen on the way."""

    def __init__(self, tmp: Path) -> None:
        training = {**command.TINY["training"], "steps": 120, "checkpoint_steps": 5}
        methods = [{"type": "gallop"}, {"type": "random"}]
        self.sweep = command.write_sweep(tmp, methods=methods, training=training)
        self.folder = SweepFolder(tmp / "runs" / "tiny")
        self.database = tmp / "runs" / "mlflow.db"
        self.seen: dict[str, Any] = {}

    def start(self, *arguments: str | Path) -> None:
        self.process = command.start(*arguments)

    def until(self, what: Callable[[], object]) -> None:
        end = time.monotonic() + 400
        while not what():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.1)

    def ended(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=400)
        return self.process.returncode, output

    def do(self, name: str, *more: str | Path) -> tuple[int, str]:
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            code = main([name, str(self.sweep if name == "run" else self.folder.path), *map(str, more)])
        return code, said.getvalue()

    def status(self) -> SweepStatus:
        stored = open_sweep(self.folder.path)
        return StatusReader(stored.folder, stored.sweep).look()

    def mlflow(self) -> Counter[str]:
        client = MlflowClient(f"sqlite:///{self.database}")
        experiment = client.get_experiment_by_name("gallop_ray")
        return Counter(run.info.status for run in client.search_runs([experiment.experiment_id]))

    def stamps(self) -> dict[Path, int]:
        files = [run.path / "result.json" for run in self.folder.runs()]
        return {path: path.stat().st_mtime_ns for path in files if path.exists()}


def _is_at_rest(handled: Handled) -> bool:
    """Paused, and nothing runs for a while: a run that had been let in when the pause came begins after it."""
    for _ in range(3):
        now = handled.status()
        if now.state != "paused" or now.running:
            return False
        time.sleep(1)
    return True


def _pause_and_stop(handled: Handled) -> None:
    seen = handled.seen
    handled.start("run", handled.sweep)
    handled.until(lambda: handled.stamps())
    seen["pause"] = handled.do("pause")
    handled.until(lambda: _is_at_rest(handled))
    seen["paused"] = handled.status(), handled.stamps()
    seen["second"] = handled.do("run")
    seen["retry"] = handled.do("retry", "--failed")
    seen["still paused"] = handled.status(), handled.stamps()
    seen["lift"] = handled.do("resume")
    handled.until(lambda: handled.status().running)
    seen["running"] = handled.status()
    seen["stop"] = handled.do("stop")
    seen["stopped"] = (*handled.ended(), handled.status(), handled.mlflow())


def _terminate(handled: Handled) -> None:
    handled.start("resume", handled.folder.path)
    handled.until(lambda: any(run.checkpoint.exists() for run in handled.folder.runs()))
    handled.process.send_signal(signal.SIGTERM)
    handled.seen["terminated"] = (*handled.ended(), handled.status(), handled.mlflow())
    handled.seen["early"] = handled.stamps()


@pytest.fixture(scope="module")
def handled(tmp_path_factory: pytest.TempPathFactory) -> Handled:
    """A sweep of three configurations, paused, stopped, terminated; then run to its end with a third seed."""
    handled = Handled(tmp_path_factory.mktemp("sweep"))
    try:
        _pause_and_stop(handled)
        _terminate(handled)
        handled.seen["changed"] = handled.do("run", "--set", "training.weight_decay=0.1")
        handled.start("run", handled.sweep, "--set", "seeds=3")
        handled.seen["done"] = handled.ended()
    finally:
        handled.process.kill()
    return handled


def test_a_paused_sweep_waits_and_is_left_alone(handled: Handled) -> None:
    paused, before = handled.seen["paused"]
    still, after = handled.seen["still paused"]
    assert handled.seen["pause"][0] == 0
    assert paused.driver.pid == handled.seen["running"].driver.pid
    assert paused.running == still.running == ()
    assert before == after
    for name in ("second", "retry"):
        code, said = handled.seen[name]
        assert code == 2
        assert "is being run by another process" in said


def test_a_lifted_pause_goes_on_in_the_same_process(handled: Handled) -> None:
    assert handled.seen["lift"][1].strip().endswith("resumes")
    (run,) = handled.seen["running"].running
    assert run.slot.startswith("slot-")
    assert run.seconds_since_event < 60


def test_a_stop_finishes_the_run_that_goes_on_and_ends_well(handled: Handled) -> None:
    code, output, status, mlflow = handled.seen["stopped"]
    assert code == 0, output
    assert "stopped early" in output
    assert status.state == "not running"
    assert status.half_done == ()
    assert status.runs.to_do == 6 - status.runs.finished > 0
    assert "RUNNING" not in mlflow


def test_sigterm_ends_at_once_and_leaves_nothing_running(handled: Handled) -> None:
    code, output, status, mlflow = handled.seen["terminated"]
    assert code == 143, output
    assert "The same command resumes" in output
    assert f"found {handled.seen['stopped'][2].runs.finished} of 6 runs finished" in output
    assert status.half_done[0].checkpoint_step >= 5
    assert "RUNNING" not in mlflow


def test_a_change_on_which_results_depend_is_refused(handled: Handled) -> None:
    code, said = handled.seen["changed"]
    assert code == 2
    assert "training.weight_decay: was 0.0, is 0.1" in said


def test_the_books_are_exact_in_the_end_and_every_configuration_has_the_third_seed(handled: Handled) -> None:
    code, output = handled.seen["done"]
    assert code == 0, output
    assert "half-done (" in output
    assert "at step" in output
    runs = Counter((run.configuration, run.seed) for run in handled.folder.runs())
    assert len(runs) == 9
    lines = (handled.folder.path / "results.jsonl").read_text().splitlines()
    assert Counter((r["configuration"], r["seed"]) for r in map(json.loads, lines)) == runs
    stamps = handled.stamps()
    assert {path: stamps[path] for path in handled.seen["early"]} == handled.seen["early"], "no run twice"
    assert handled.mlflow() == {"FINISHED": 1 + 3 + 9}
    status = handled.status()
    assert status.state == "finished"
    assert status.configurations.finished == 3
