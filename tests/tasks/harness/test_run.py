"""Harness tasks in a slot: measured on all ranks, at ZeRO 3 as on one; checked before anything is spent."""

import json
from pathlib import Path
from typing import Any

import pytest

from gallop_ray.spec import harness
from gallop_ray.spec.checks import checked_sweep
from gallop_ray.spec.problems import SweepFileError
from gallop_ray.spec.schema import Sweep
from gallop_ray.testing.model import load
from gallop_ray.training.resident import load_base_model
from gallop_ray.training.run import measure_base
from tests.tasks.harness.test_task import CHOICE, WORDS, rows, write


def train_rows(count: int) -> list[dict[str, Any]]:
    shared = {"instruction": "is it?\nAnswer format: yes/no", "output": "yes", "answer": "yes"}
    return [{**shared, "input": str(i)} for i in range(count)]


def asked(folder: Path, stage: int = 0, **tasks: Any) -> dict[str, Any]:
    """Train on a source of ours that the harness tests, with another task of it as OOD test."""
    return {
        "name": "tiny",
        "model": {"name": "pocket"},
        "data": {
            **{"root": "generated", "train": "own", "ood": ["words"], "limits": {"validation": 4}},
            "tasks": {
                "own": {"source": str(folder / "own.train.jsonl"), "harness": str(folder / "one.yaml")},
                "words": {"harness": str(folder / "words.yaml"), "limit": 5},
                **tasks,
            },
        },
        "methods": [{"type": "gallop"}],
        "resources": {"workers_per_slot": 2},
        "deepspeed": {"zero_stage": stage},
        "evaluation": {"batch_size": 3},
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(tmp_path, "one", CHOICE, test=rows(20))
    write(tmp_path, "words", WORDS, train=rows(9), validation=rows(20, 20))
    (tmp_path / "own.train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in train_rows(8)))
    return tmp_path


def measured(data: dict[str, Any]) -> tuple[Any, Any, Any]:
    resident = load_base_model(Sweep.model_validate(data), load)
    found = measure_base(resident)
    return found.correct, found.accuracies, resident.identity


def test_every_rank_has_the_results_of_one_rank(ranks: Any, folder: Path) -> None:
    ((correct, accuracies, identity),) = ranks(1)(measured, asked(folder))
    for split in ("validation", "test"):
        assert list(correct["own"][split]) == ["acc", "acc_norm"]
        assert list(correct["words"][split]) == ["exact_match,whole", "exact_match,digit"]
    assert [len(correct["own"][split]["acc"]) for split in ("validation", "test")] == [4, 16]
    assert [len(correct["words"][split]["exact_match,digit"]) for split in ("validation", "test")] == [4, 5]
    assert ranks(2)(measured, asked(folder, stage=3)) == [(correct, accuracies, identity)] * 2


def test_the_task_file_and_the_harness_version_are_part_of_a_sweeps_identity(ranks: Any, folder: Path) -> None:
    before = ranks(1)(measured, asked(folder))[0][2]
    assert before["lm-evaluation-harness"]["own"]["version"]
    path = folder / "one.yaml"
    path.write_text(path.read_text() + "description: ''\n")
    after = ranks(1)(measured, asked(folder))[0][2]
    assert after["lm-evaluation-harness"]["own"] != before["lm-evaluation-harness"]["own"]
    assert after["lm-evaluation-harness"]["words"] == before["lm-evaluation-harness"]["words"]


@pytest.mark.parametrize(
    ("field", "task", "said"),
    [
        ("harness", {"harness": "hellaswak"}, "lm-evaluation-harness has no task hellaswak .*hellaswag"),
        ("harness", {"harness": "nowhere.yaml"}, r"there is no file .*nowhere\.yaml"),
        ("limit", {"source": "a.jsonl", "limit": 3}, "is not allowed without `harness`"),
        ("few_shot", {"harness": "arc_easy", "few_shot": 3}, "is not allowed with `harness`.*num_fewshot"),
        ("measure", {"harness": "arc_easy", "measure": "f1"}, "is not allowed with `harness`"),
        ("also", {"harness": "arc_easy", "also": ["f1"]}, "is not allowed with `harness`"),
    ],
)
def test_what_is_no_task_of_the_harness_is_refused_when_a_sweep_is_read(folder: Path, field, task, said) -> None:
    with pytest.raises(SweepFileError, match=said) as error:
        checked_sweep(asked(folder, words=task))
    assert f"data.tasks.words.{field}" in str(error.value)


def test_a_harness_task_alone_is_not_trained_on(folder: Path) -> None:
    with pytest.raises(SweepFileError, match="give the task that is trained on a `source`"):
        checked_sweep(asked(folder, own={"harness": str(folder / "one.yaml")}))


def test_without_the_package_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda name: None)  # it is installed wherever tests are
    with pytest.raises(SweepFileError, match=r"not installed; run: pip install 'gallop_ray\[harness\]'"):
        checked_sweep(asked(folder, words={"harness": "hellaswag"}))
    with pytest.raises(SweepFileError, match=r"not installed"):
        checked_sweep(asked(folder))
