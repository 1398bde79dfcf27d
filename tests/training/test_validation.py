"""Validation during training: it changes nothing that is trained, and the best step is what it would be by hand."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from gallop_ray.spec.schema import Sweep
from gallop_ray.training.resident import LoadedModel, load_base_model
from gallop_ray.training.run import execute, measure_base
from tests.training import test_run, tiny

STEPS = 6
TUNED: Mapping[str, Any] = {"steps": STEPS, "schedule": "constant", "warmup_ratio": 0, "learning_rate": 3e-2}
METHODS: dict[str, dict[str, Any]] = {
    "gallop": {"density": 0.2, "selection_ratio": 0.5},
    "lora": {"rank": 4, "dropout": 0.1},
    "full": {},
    "wise_ft": {"alpha": 0.7},
}


class Watch:
    """A reporter that keeps the events."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.adapter, self.checkpoint = folder / "adapter.safetensors", folder / "checkpoint.safetensors"
        self.events: list[dict[str, Any]] = []

    def event(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


def the_sweep(stage: int, dtype: str) -> Sweep:
    asked = test_run.sweep(stage, dtype).model_dump()
    asked["data"]["limits"] = {"train": 24, "validation": 20, "test": 4}
    asked["evaluation"] = {"batch_size": 8, "generate": False}
    return Sweep.model_validate(asked)


def run(resident: LoadedModel, name: str, folder: Path, **training: Any) -> tuple[dict[str, Any], Watch]:
    base = resident.__dict__.setdefault("measured", measure_base(resident).accuracies)
    watch = Watch(folder)
    chosen = test_run.configuration(resident, name, METHODS[name], **{**TUNED, **training})
    result = execute(resident, chosen, 1, base, watch)
    return {key: value for key, value in result.items() if key not in test_run.TIMES}, watch


def try_validation(stage: int, dtype: str, folder: Path) -> dict[str, dict[str, Any]]:
    """On each rank and for each method: runs with and without validation, cut off, and as long as each step."""
    resident = load_base_model(the_sweep(stage, dtype), test_run.load)
    weights, before = tiny.whole_weights(resident.model), test_run.traces(resident.model)
    seen = {}
    for name in METHODS:
        here = folder / name
        plain, _ = run(resident, name, here / "plain")
        curve, watch = run(resident, name, here / "curve", validate_steps=2)
        best, watched = run(resident, name, here / "best", validate_steps=1, keep="best", checkpoint_steps=4)
        (here / "resumed").mkdir(exist_ok=True)
        shutil.copy(watched.checkpoint, here / "resumed")
        resumed, rest = run(resident, name, here / "resumed", validate_steps=1, keep="best", checkpoint_steps=4)
        seen[name] = {
            "results": {"plain": plain, "curve": curve, "best": best, "resumed": resumed},
            "validations": {"curve": watch.of("validation"), "best": watched.of("validation")},
            "rest": [event["step"] for event in rest.of("validation")],
            "phases": [event["phase"] for event in watch.of("phase")],
            "by_hand": [run(resident, name, here / f"{n}", steps=n)[0] for n in range(1, STEPS + 1)],
        }
        assert tiny.same(tiny.whole_weights(resident.model), weights), f"{name} restores the base"
        assert test_run.traces(resident.model) == before, f"{name} leaves nothing behind"
    return seen


def adapter(folder: Path, name: str, turn: str | int) -> dict[str, Any]:
    return load_file(folder / name / str(turn) / "adapter.safetensors")


@pytest.mark.parametrize(
    ("stage", "dtype"),
    [
        pytest.param(0, "float32", marks=pytest.mark.faults),
        (1, "bfloat16"),
        pytest.param(2, "float32", marks=pytest.mark.faults),
        pytest.param(3, "float32", marks=pytest.mark.long),
    ],
)
def test_validation_while_training(ranks: Callable, tmp_path: Path, stage: int, dtype: str) -> None:
    seen, other = ranks(2)(try_validation, stage, dtype, tmp_path)
    assert seen == other, "the ranks agree"
    for name, what in seen.items():
        _check_undisturbed(tmp_path, name, what)
        _check_best(tmp_path, name, what)
    assert {what["results"]["best"]["best_step"] for what in seen.values()} & set(range(1, STEPS)), "some turn worse"


def _check_undisturbed(folder: Path, name: str, what: Mapping[str, Any]) -> None:
    assert what["results"]["curve"] == what["results"]["plain"], f"{name} trains the same with validation"
    assert tiny.same(adapter(folder, name, "curve"), adapter(folder, name, "plain"))
    assert [event["step"] for event in what["validations"]["curve"]] == [2, 4, 6]
    first = what["phases"].index("training")
    assert what["phases"][first:] == ["training", "evaluating"] * 4 + ["saving"], "and back to training"


def _check_best(folder: Path, name: str, what: Mapping[str, Any]) -> None:
    """Every step was the last one of a run of its own; the best of these is found, kept, and found again."""
    by_hand, best = what["by_hand"], what["results"]["best"]
    values = [result["val_mean_accuracy"] for result in by_hand]
    assert [event["val_mean_accuracy"] for event in what["validations"]["best"]] == values
    expected = values.index(max(values))
    assert best["best_step"] == expected + 1
    for key in ("val_mean_accuracy", "id_accuracy", "tasks", "correct"):
        assert best[key] == by_hand[expected][key], f"{name} is measured as it was at its best"
    assert tiny.same(adapter(folder, name, "best"), adapter(folder, name, expected + 1))
    assert what["rest"] == [5, 6], f"{name} goes on behind its checkpoint"
    assert {**what["results"]["resumed"], "scores": None} == {**best, "scores": None}, f"{name} finds its best again"
    assert tiny.same(adapter(folder, name, "resumed"), adapter(folder, name, "best"))
