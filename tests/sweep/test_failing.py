"""Whole sweeps in which something fails, through the command."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gallop_ray.records.folders import SweepFolder
from tests.faults import books
from tests.small_disk import mounted
from tests.sweep import command

pytestmark = pytest.mark.faults


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 14 MB where the sweep's records go."""
    with mounted(tmp_path / "runs", megabytes=14) as folder:
        yield folder


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_full_disk_stops_the_sweep_and_the_same_command_goes_on(small_disk: Path, tmp_path: Path) -> None:
    space = {"space": {"training.learning_rate": {"choice": [1e-4, 2e-4, 3e-4]}}}
    sweep = command.write_sweep(tmp_path, methods=[{"type": "full"}], search=space, budget={"configurations": 3})
    full = command.run("run", sweep)
    assert full.returncode == 1, full.stdout
    assert "no space left" in full.stdout
    assert "The same command resumes" in full.stdout
    assert "Traceback" not in full.stdout
    finished = {(each.configuration, each.seed) for each in SweepFolder(small_disk / "tiny").results()}
    assert 0 < len(finished) < 6, "an adapter takes 4 MB"
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    done = command.run("run", sweep)
    assert done.returncode == 0, done.stdout
    assert {r["status"] for r in results(small_disk / "tiny")} == {"finished"}
    assert len(results(small_disk / "tiny")) == 6


def test_one_bad_configuration_fails_alone(tmp_path: Path) -> None:
    space = {"space": {"gallop.eps": {"choice": [1e-8, 1e3]}}}
    sweep = command.write_sweep(tmp_path, methods=[{"type": "gallop"}], search=space, seeds=1)
    done = command.run("run", sweep)
    assert done.returncode == 1, done.stdout
    bad, good = sorted(results(tmp_path / "runs" / "tiny"), key=lambda r: r["status"] == "finished")
    assert (good["status"], good["failure"], good["attempts"]) == ("finished", None, 1)
    assert (bad["status"], bad["failure"], bad["attempts"]) == ("failed", "refused", 1)
    assert "eligible" in bad["reason"]


def test_a_mistake_in_every_configuration_stops_the_sweep(tmp_path: Path) -> None:
    space = {"space": {"training.learning_rate": {"log": [1e-4, 1e-2]}}}
    methods = [{"type": "gallop", "eps": 1e3}]
    sweep = command.write_sweep(tmp_path, methods=methods, search=space, seeds=1, budget={"configurations": 9})
    done = command.run("run", sweep)
    assert done.returncode == 2, done.stdout
    assert "all of the first 3 configurations failed, and alike" in done.stdout
    assert len(results(tmp_path / "runs" / "tiny")) == 3


@contextmanager
def immutable(folder: Path) -> Iterator[None]:
    """A folder in which nothing can be written meanwhile, as on a disk that has become read-only."""
    if subprocess.run(["chattr", "-R", "+i", folder], capture_output=True, check=False).returncode:
        pytest.skip("only root may forbid itself to write, on a disk that knows of it")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-R", "-i", folder], check=True)


def test_a_storage_that_refuses_half_way_stops_the_sweep_and_the_same_command_resumes(tmp_path: Path) -> None:
    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    space = {"space": {"training.learning_rate": {"choice": [1e-4, 2e-4]}}}
    training = {**command.TINY["training"], "steps": 40}
    methods = [{"type": "gallop", "density": 0.05}]
    sweep = command.write_sweep(tmp_path, methods=methods, search=space, training=training, tracking={"uri": tracking})
    folder = SweepFolder(tmp_path / "runs" / "tiny")
    process = command.start("run", sweep)
    try:
        while not (folder.path.exists() and any(run.result() for run in folder.runs())):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        with immutable(folder.path):
            output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 1, output
    assert "no permission" in output.strip().splitlines()[-1], output
    assert "The same command resumes" in output
    assert str(folder.path) in output.strip().splitlines()[-1], output
    assert "Traceback" not in output
    assert "MLflow cannot be reached" not in output, "it is not MLflow that refuses"
    done = command.run("run", sweep)
    assert done.returncode == 0, done.stdout
    books.check(folder, tracking, configurations=2, runs=4)
