"""A sweep that trains on several tasks in turn, killed between two rounds, through the command."""

import json
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from gallop_ray.exports.request import checked
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RoundFolder
from tests.sweep import command

pytestmark = pytest.mark.long

TASKS = ["range", "max"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two methods with two seeds, killed when the first round of all was over, then run to its end."""
    tmp = tmp_path_factory.mktemp("sweep")
    data = {**command.TINY["data"], "train": TASKS, "ood": ["first"]}
    sweep = command.write_sweep(
        tmp,
        data=data,
        methods=command.TINY["methods"][::2],
        search={"space": {}},
        training={**command.TINY["training"], "validate_steps": 2, "keep": "best"},
        retention={"adapters": "best"},
    )
    folder = SweepFolder(tmp / "runs" / "tiny")
    written = _killed_after_a_round(sweep, folder)
    return {"folder": folder, "done": command.run("run", sweep), "written": written, "tmp": tmp}


def _killed_after_a_round(sweep: Path, folder: SweepFolder) -> dict[Path, int]:
    process = command.start("run", sweep)
    until = time.monotonic() + 300
    while not (over := list(folder.path.glob("*/seed-*/*/result.json"))):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "no round came to its end"
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=20)
    for each in alive:
        each.kill()
    return {path: path.stat().st_mtime_ns for path in over}


def test_runs_have_the_means_of_their_rounds(finished: dict[str, Any]) -> None:
    assert finished["done"].returncode == 0, finished["done"].stdout
    results = finished["folder"].results()
    assert len(results) == 4
    for result in results:
        rounds = result.rounds
        assert list(rounds) == TASKS
        for name in ("id_accuracy", "ood_accuracy", "val_mean_accuracy", "collapse_rate"):
            assert result.value(name) == fmean(each[name] for each in rounds.values())
        assert result.steps == 2 * 4
    assert all(path.stat().st_mtime_ns == written for path, written in finished["written"].items())
    lines = (finished["folder"].path / "results.jsonl").read_text().splitlines()
    assert {"rounds_range_id_accuracy", "rounds_max_ood_accuracy"} <= json.loads(lines[0]).keys()


def test_status_best_and_masks_know_rounds(finished: dict[str, Any]) -> None:
    folder = finished["folder"]
    status = json.loads(command.run("status", folder.path, "--json").stdout)
    assert (status["state"], status["runs"]["finished"], status["half_done"]) == ("finished", 4, [])
    best = command.run("best", folder.path, "--all").stdout
    assert best.count("adapter: ") == 2 * len(TASKS)
    masks = json.loads((folder.path / "masks.json").read_text())
    assert [(run["seed"], run["round"]) for run in masks["runs"]] == [
        (s, task) for s in (0, 1) for task in sorted(TASKS)
    ]
    assert sorted(pair["round"] for pair in masks["overlap"]["seeds"]) == sorted(TASKS)


def test_mlflow_counts_steps_through_the_rounds(finished: dict[str, Any]) -> None:
    client = MlflowClient(f"sqlite:///{finished['tmp'] / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("gallop_ray")
    level = "tags.`gallop_ray.level` = '{}'"
    runs = client.search_runs([experiment.experiment_id], level.format("seed"))
    assert len(runs) == 4
    for run in runs:
        assert [point.step for point in client.get_metric_history(run.info.run_id, "training/loss")] == list(
            range(1, 9)
        )
        curve = client.get_metric_history(run.info.run_id, "training/val_mean_accuracy")
        assert [point.step for point in curve] == [2, 4, 6, 8]
    (whole,) = client.search_runs([experiment.experiment_id], level.format("sweep"))
    assert whole.data.params["train"] == "range, max"


def test_a_round_is_exported_by_its_folder(finished: dict[str, Any], tmp_path: Path) -> None:
    run = next(run for run in finished["folder"].runs() if run.configuration.startswith("gallop"))
    with pytest.raises(ValueError, match=r"an adapter for each task .*; give one of .*max, .*range"):
        checked(str(run.path), "delta", None)
    request = checked(str(run.path / "max"), "delta", None)
    assert request.output.name == f"{run.configuration}-seed-0-max-delta"
    assert request.model.name == "pocket"
    done = command.run("export", run.path / "max", "--to", "delta", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "out" / "adapter.safetensors").read_bytes() == RoundFolder(run.path / "max").adapter.read_bytes()
