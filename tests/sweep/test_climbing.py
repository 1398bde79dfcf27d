"""Sweeps whose configurations climb rungs, through the command: killed on the way, and with several in turn on a slot.

What finishes is bitwise what it is in a sweep without rungs.
"""

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file

from gallop_ray.analysis.status import StatusReader
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.stored import open_sweep
from tests.faults.books import outcomes
from tests.sweep import command
from tests.training import tiny

pytestmark = pytest.mark.long
RATES = [3e-4, 1e-3, 3e-3, 1e-2]


def write(folder: Path, **changes: Any) -> tuple[Path, SweepFolder]:
    folder.mkdir()
    file = command.write_sweep(
        folder,
        **{
            "methods": [{"type": "gallop", "density": 0.05}],
            "search": {"sampler": "random", "space": {"training.learning_rate": {"choice": RATES}}},
            "budget": {"configurations": len(RATES)},
            "training": {**command.TINY["training"], "steps": 9},
            "resources": {"workers_per_slot": 1, "cpus_per_worker": 0.5, "slots": 2},
            "tracking": {"uri": f"sqlite:///{folder / 'mlflow.db'}"},
            **changes,
        },
    )
    return file, SweepFolder(folder / "runs" / "tiny")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    file, folder = write(tmp_path_factory.mktemp("plain") / "sweep")
    done = command.run("run", file)
    assert done.returncode == 0, done.stdout
    return folder


def check_same(found: SweepFolder, plain: SweepFolder) -> int:
    """How many runs have finished, each of them as in the plain sweep."""
    expected, count = outcomes(plain), 0
    for (key, seed), result in outcomes(found).items():
        if result["status"] == "finished":
            assert result == expected[key, seed]
            mine, alone = (load_file(folder.run(key, seed).adapter) for folder in (found, plain))
            assert tiny.same(mine, alone)
            count += 1
    return count


def test_asha_after_a_kill(plain: SweepFolder, tmp_path: Path) -> None:
    file, folder = write(tmp_path / "sweep", pruning={"type": "asha", "reduction": 2})
    process, until = command.start("run", file), time.monotonic() + 400
    try:
        while not folder.exists() or sum(len(run.rungs().rungs) for run in folder.runs()) < 3:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until, "too few rungs"
            time.sleep(0.1)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    done = command.run("run", file)
    assert done.returncode == 0, done.stdout
    assert check_same(folder, plain) >= 2
    ends = Counter(each.status().status for each in folder.configurations())
    assert ends["finished"] + ends["pruned"] == len(RATES)
    assert min(ends["finished"], ends["pruned"]) >= 1
    status = StatusReader(folder, open_sweep(folder.path).sweep).look()
    assert (status.state, status.waiting, status.half_done, status.failed) == ("finished", (), (), ())
    journal = optuna.storages.journal.JournalFileBackend(str(folder.path / "study.journal"))
    trials = optuna.load_study(study_name="gallop", storage=optuna.storages.JournalStorage(journal)).trials
    assert Counter(trial.state.name for trial in trials) == {"COMPLETE": ends["finished"], "PRUNED": ends["pruned"]}
    assert all(trial.intermediate_values for trial in trials), "every one has come to a rung"
    client = MlflowClient(f"sqlite:///{tmp_path / 'sweep/mlflow.db'}")
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert {run.info.status for run in runs} == {"FINISHED"}
    stopped = [run for run in runs if run.data.tags.get("status") == "pruned" and "seed" in run.data.params]
    listed = [each for each in folder.listed() if each.status == "pruned"]
    assert len(stopped) == len(listed)
    assert {run.data.metrics["steps"] for run in stopped} == {each.steps for each in listed}
    assert all("stopped early at step" in run.data.tags["reason"] for run in stopped)


def test_several_in_turn_on_one_slot(plain: SweepFolder, tmp_path: Path) -> None:
    resources = {"workers_per_slot": 1, "cpus_per_worker": 1, "slots": 1, "interleave": 3}
    file, folder = write(tmp_path / "sweep", resources=resources)
    done = command.run("run", file)
    assert done.returncode == 0, done.stdout
    assert check_same(folder, plain) == 2 * len(RATES)
    paused = sum(event.event == "run_paused" for run in folder.runs() for event in run.events())
    assert paused == 2 * len(RATES), "each first seed at two rungs"
