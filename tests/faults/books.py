"""The books of a sweep: run folders, results.jsonl, the studies and MLflow, which must all say the same."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from mlflow import MlflowClient
from safetensors.torch import load_file

from gallop_ray.records.events import Step
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder

VARYING = {"seconds", "peak_memory_bytes", "started", "ended", "slot", "attempts", "scores"}
"""What a result says of how it came about, and not of what came out."""


def finished(folder: SweepFolder) -> dict[Path, bytes]:
    """The results that are there, as written: each says when its run began and ended."""
    return {run.path: (run.path / "result.json").read_bytes() for run in _runs(folder) if run.result()}


def kept_steps(folder: SweepFolder) -> dict[Path, tuple[int, int]]:
    """The step of each unfinished run's checkpoint, 0 where it has none, and the number of its attempt."""
    begun = [run for run in _runs(folder) if not run.result() and run.metrics.exists()]
    return {run.path: (_kept_step(run), run.attempt()) for run in begun}


def _kept_step(run: RunFolder) -> int:
    return int(load_file(run.checkpoint)["step"]) if run.checkpoint.exists() else 0


def first_step(run: RunFolder) -> int | None:
    """The first optimizer step of a run's present attempt."""
    return next((event.step for event in run.events() if isinstance(event, Step)), None)


@dataclass
class Ledger:
    """What a sweep had at the last look at it."""

    results: dict[Path, bytes] = field(default_factory=dict)
    kept: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Of each unfinished run the step of its checkpoint and the attempt."""

    def look(self, folder: SweepFolder) -> None:
        """What was finished is as it was; what goes on does so from its last checkpoint."""
        now = finished(folder)
        assert {path: now.get(path) for path in self.results} == self.results, "a finished run was run again"
        for path, (step, attempt) in self.kept.items():
            run = folder.run(path.parent.name, int(path.name.removeprefix("seed-")))
            if run.attempt() > attempt:  # a run that was not hit went on all the while
                first = first_step(run)
                assert first is None or first > step, f"{path} repeated steps that its checkpoint held"
        self.results, self.kept = now, kept_steps(folder)


def outcomes(folder: SweepFolder) -> dict[tuple[str, int], dict[str, Any]]:
    """What came out of each run."""
    every = {(run.configuration, run.seed): run.result() for run in _runs(folder)}
    written = {key: result.as_json() if result else {} for key, result in every.items()}
    return {key: {k: v for k, v in result.items() if k not in VARYING} for key, result in written.items()}


def check(
    folder: SweepFolder,
    tracking: str,
    configurations: int,
    runs: int,
    studies: optuna.storages.BaseStorage | None = None,
) -> None:
    """Every configuration and run once, finished, in every book; nothing left running.

    studies: where they are if not in the sweep's own journal.
    """
    lines = [json.loads(line) for line in (folder.path / "results.jsonl").read_text().splitlines()]
    assert len(lines) == runs
    assert set(Counter((line["configuration"], line["seed"]) for line in lines).values()) == {1}
    assert {line["status"] for line in lines} == {"finished"}
    assert {c.status().status for c in folder.configurations()} == {"finished"}
    _check_study(studies or _journal(folder), configurations)
    _check_mlflow(tracking, configurations, runs)


def _journal(folder: SweepFolder) -> optuna.storages.BaseStorage:
    backend = optuna.storages.journal.JournalFileBackend(str(folder.path / "study.journal"))
    return optuna.storages.JournalStorage(backend)


def _check_study(storage: optuna.storages.BaseStorage, configurations: int) -> None:
    trials = [t for study in storage.get_all_studies() for t in storage.get_all_trials(study._study_id)]
    complete = [t.user_attrs["configuration"] for t in trials if t.state.name == "COMPLETE"]
    assert len(complete) == len(set(complete)) == configurations
    assert {t.state.name for t in trials} <= {"COMPLETE", "FAIL"}
    assert all("configuration" not in t.user_attrs for t in trials if t.state.name == "FAIL"), "asked, and never known"


def _check_mlflow(tracking: str, configurations: int, runs: int) -> None:
    client = MlflowClient(tracking)
    experiment = client.get_experiment_by_name("gallop_ray")
    found = {r.info.run_id: r for r in client.search_runs([experiment.experiment_id], max_results=1000)}

    def depth(run: Any) -> int:
        parent = run.data.tags.get("mlflow.parentRunId")
        return 1 + depth(found[parent]) if parent else 0

    assert Counter(depth(run) for run in found.values()) == {0: 1, 1: configurations, 2: runs}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    used = {tuple(sorted(_datasets(run))) for run in found.values()}
    assert len(used) == 1, "all runs use the same data"
    assert len(set(*used)) == len(*used) > 1
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert model.status.value == "READY"
    assert [each.model_id for run in found.values() for each in run.outputs.model_outputs] == [model.model_id]


def _datasets(run: Any) -> list[tuple[str, str, str]]:
    return [(each.dataset.name, each.dataset.digest, each.tags[0].value) for each in run.inputs.dataset_inputs]


def _runs(folder: SweepFolder) -> list[RunFolder]:
    return list(folder.runs()) if folder.path.exists() else []
