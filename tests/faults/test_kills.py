"""A sweep that is killed again and again ends with exact books, and with the results of one that was left alone."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from gallop_ray.records.folders import SweepFolder
from tests.faults import books
from tests.faults.mlflow_server import Server
from tests.faults.victims import Point, Siege, points
from tests.sweep import command
from tests.training import tiny

EACH, SEEDS, FRESH = 14, 2, 1
METHODS = [{"type": "gallop", "density": 0.05}, {"type": "lora"}]
CONFIGURATIONS = len(METHODS) * EACH
RUNS = CONFIGURATIONS * SEEDS + FRESH * len(METHODS)


def write_sweep(folder: Path, tracking: str, each: int = EACH, seeds: int = SEEDS) -> Path:
    """Every point of a small space, so that any order of trying them gives the same configurations."""
    space = {"training.learning_rate": {"choice": [n / 2000 for n in range(1, each + 1)]}}
    folder.mkdir(parents=True, exist_ok=True)
    return command.write_sweep(
        folder,
        methods=METHODS,
        seeds=seeds,
        search={"space": space},
        budget={"configurations": each},
        confirmation={"seeds": FRESH},
        training={**command.TINY["training"], "steps": 24, "checkpoint_steps": 8},
        evaluation={"generate": False},
        tracking={"uri": tracking},
    )


@pytest.mark.faults
def test_a_few_kills(tmp_path: Path) -> None:
    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    siege = Siege(write_sweep(tmp_path, tracking, each=1, seeds=2), SweepFolder(tmp_path / "runs/tiny"))
    try:
        for victim, moment in (("worker", "training"), ("slot", "evaluating"), ("driver", "saving")):
            assert siege.survive(Point(victim, moment, 0.01))
        siege.finish()
    finally:
        siege.close()
    books.check(siege.folder, tracking, configurations=2, runs=6)


@pytest.mark.faults
def test_twenty_kills(tmp_path: Path) -> None:
    server = Server(tmp_path)
    siege = Siege(write_sweep(tmp_path / "killed", server.uri), SweepFolder(tmp_path / "killed/runs/tiny"), server)
    survived = 0
    try:
        for point in points(seed=1, count=22):
            survived += siege.survive(point)
            print(f"{survived}: {point}", flush=True)
        output = siege.finish()
        assert "run again on fresh seeds" in output
        books.check(siege.folder, server.uri, CONFIGURATIONS, RUNS)
    finally:
        siege.close()
        server.stop()
    assert survived >= 20, siege.log
    _check_against_a_sweep_left_alone(tmp_path, siege.folder)


def _check_against_a_sweep_left_alone(tmp_path: Path, folder: SweepFolder) -> None:
    calm = SweepFolder(tmp_path / "calm/runs/tiny")
    ended = command.run("run", write_sweep(tmp_path / "calm", f"sqlite:///{tmp_path / 'calm.db'}"))
    assert ended.returncode == 0, ended.stdout
    assert books.outcomes(folder) == books.outcomes(calm)
    for run in calm.runs():
        other = folder.run(run.configuration, run.seed)
        assert tiny.same(load_file(run.adapter), load_file(other.adapter)), run.path
