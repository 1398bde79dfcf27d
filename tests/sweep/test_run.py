"""A sweep from end to end through the command: interrupted half-way, carried on, complete, and not run again."""

import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from gallop_ray.analysis.timing import switch_seconds
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.slots import loads
from gallop_ray.sparse.adapter import apply_adapter
from gallop_ray.spec.data import ModelSpec
from gallop_ray.training.models import load_model
from tests.sweep import command


def _stop_after(results: int, number: signal.Signals, sweep: Path, folder: SweepFolder) -> tuple[int, str]:
    """Start the sweep and signal the driver when so many runs have finished; its exit code and what it printed."""
    process = command.start("run", sweep)
    until = time.monotonic() + 400
    try:
        while sum(run.result() is not None for run in folder.runs()) < results:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until, "too few runs finished"
            time.sleep(0.2)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny sweep of three methods, interrupted after three results, then run to its end.

    4 configurations with 2 seeds each, and each method's best once more on a fresh seed.
    """
    tmp = tmp_path_factory.mktemp("sweep")
    methods = [{"type": "gallop", "density": 0.05}, {"type": "lora"}, {"type": "full"}]
    sweep = command.write_sweep(tmp, methods=methods, confirmation={"seeds": 1})
    folder = SweepFolder(tmp / "runs" / "tiny")
    interrupted = _stop_after(3, signal.SIGINT, sweep, folder)
    early = {run.path: (run.path / "result.json").stat().st_mtime_ns for run in folder.runs() if run.result()}
    done = command.run("run", sweep)
    return {"tmp": tmp, "sweep": sweep, "folder": folder, "early": early, "done": done, "interrupted": interrupted}


def test_ends_well_and_shows_every_method(finished: dict[str, Any]) -> None:
    assert finished["done"].returncode == 0, finished["done"].stdout
    for word in ("run again on fresh seeds", "base model", "gallop", "lora", "full", "ID", "OOD", "Forget"):
        assert word in finished["done"].stdout


def test_an_interrupt_ends_cleanly_and_says_how_to_go_on(finished: dict[str, Any]) -> None:
    code, output = finished["interrupted"]
    assert code == 130, output
    assert "The same command resumes the sweep" in output
    assert "Traceback" not in output


def test_every_run_once_and_what_was_finished_not_again(finished: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in (finished["folder"].path / "results.jsonl").read_text().splitlines()]
    runs = Counter((line["configuration"], line["seed"]) for line in lines)
    assert len(runs) == 11
    assert Counter(line["stage"] for line in lines) == {"search": 8, "confirmation": 3}
    assert all((line["seed"] == 1000) == (line["stage"] == "confirmation") for line in lines)
    assert len({line["method"] for line in lines if line["stage"] == "confirmation"}) == 3
    assert set(runs.values()) == {1}
    assert {line["status"] for line in lines} == {"finished"}
    assert len(finished["early"]) >= 3
    for path, written in finished["early"].items():
        assert (path / "result.json").stat().st_mtime_ns == written
    for name in ("id_accuracy", "ood_accuracy", "forget_ratio", "collapse_rate"):
        for key in (name, f"val_{name}", f"{name}_generated"):
            assert all(0 <= line[key] <= 1 for line in lines)


def test_every_run_says_what_it_generated_and_what_it_forgot_of_each_task(finished: dict[str, Any]) -> None:
    folder = finished["folder"]
    for run in folder.runs():
        result, outputs = run.result(), run.read("outputs")
        assert result.ood_tasks == 2
        assert {task: set(ways) for task, ways in result.forgetting.items()} == {
            "max": {"likelihood", "generated"},
            "first": {"likelihood", "generated"},
        }
        assert set(outputs) == {"range", "max", "first"}
        assert result.parseable_share == pytest.approx(sum(one["parseable"] for one in outputs.values()) / 3)
        assert result.memorization is None  # every task is answered with a digit
        assert result.value("text_loss") - folder.base_text_loss() == pytest.approx(result.value("text_loss_increase"))


def test_every_run_keeps_what_it_said_beside_the_base(finished: dict[str, Any]) -> None:
    folder = finished["folder"]
    for run in folder.runs():
        found, correct = run.predictions(), run.read("correct")
        assert {each["task"] for each in found} == {"range", "max", "first"}
        for each in found:
            for way, value in each["measured"].items():
                assert value == float(correct[each["task"]]["test"][way][each["example"]])
            assert each["right"] == each["measured"]["generated"] == (each["read"] == each["reference"])
            assert each["base_output"] is not None
            assert each["base_measured"].keys() == each["measured"].keys()
            assert each["prompt"].strip()


def test_study_is_complete(finished: dict[str, Any]) -> None:
    backend = optuna.storages.journal.JournalFileBackend(str(finished["folder"].path / "study.journal"))
    storage = optuna.storages.JournalStorage(backend)
    states = Counter(
        (s.study_name, t.state.name) for s in storage.get_all_studies() for t in storage.get_all_trials(s._study_id)
    )
    assert {name: n for (name, state), n in states.items() if state == "COMPLETE"} == {
        "gallop": 2,
        "lora": 1,
        "full": 1,
    }
    assert not [key for key in states if key[1] == "RUNNING"]


def test_mlflow_holds_sweep_configurations_and_seeds_once_each(finished: dict[str, Any]) -> None:
    client = MlflowClient(f"sqlite:///{finished['tmp'] / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("gallop_ray")
    runs = {r.info.run_id: r for r in client.search_runs([experiment.experiment_id])}

    def depth(run: Any) -> int:
        parent = run.data.tags.get("mlflow.parentRunId")
        return 1 + depth(runs[parent]) if parent else 0

    assert Counter(depth(run) for run in runs.values()) == {0: 1, 1: 4, 2: 11}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_adapter_applies_to_its_base_only(finished: dict[str, Any]) -> None:
    run = next(r for r in finished["folder"].runs() if r.configuration.startswith("gallop"))
    model, _ = load_model(ModelSpec(name="pocket"))
    before = {n: p.clone() for n, p in model.named_parameters()}
    applied = apply_adapter(model, run.adapter)
    changed = sum(int((p != before[n]).sum()) for n, p in model.named_parameters())
    assert 0 < changed <= run.result().trained_parameters
    with pytest.raises(ValueError, match="trained on a base model"):
        apply_adapter(model, run.adapter)
    applied.remove()
    assert all(p.equal(before[n]) for n, p in model.named_parameters())


def test_warm_switches_between_configurations(finished: dict[str, Any]) -> None:
    seconds = sorted(switch_seconds(finished["folder"]))
    assert len(seconds) >= 3, "configurations followed each other in one slot"


def test_each_start_loads_the_base_model_once_a_slot(finished: dict[str, Any]) -> None:
    found = loads(finished["folder"])
    assert [load.slot for load in found] == ["slot-0"] * 2, "interrupted, and run to its end"
    assert all(load.workers == 2 for load in found)


def test_a_finished_sweep_runs_nothing_and_can_be_extended(finished: dict[str, Any]) -> None:
    stamp = {run.path: (run.path / "result.json").stat().st_mtime_ns for run in finished["folder"].runs()}
    space = "search.space={gallop.density: {choice: [0.01, 0.05]}, lora.rank: {choice: [2, 4]}}"
    refused = command.run("run", finished["sweep"], "--set", space)
    assert refused.returncode == 2
    assert "search" in refused.stdout
    again = command.run("run", finished["sweep"])
    assert again.returncode == 0, again.stdout
    assert {run.path: (run.path / "result.json").stat().st_mtime_ns for run in finished["folder"].runs()} == stamp


@pytest.mark.faults
def test_a_density_beyond_the_model_is_refused_before_anything_runs(tmp_path: Path) -> None:
    sweep = command.write_sweep(tmp_path, methods=[{"type": "random", "density": 1.0}], search={"space": {}})
    refused = command.run("run", sweep)
    assert refused.returncode == 2, refused.stdout
    assert "lower the density" in refused.stdout
    assert not list(SweepFolder(tmp_path / "runs" / "tiny").runs())
