"""What every method must keep to, on real ranks at ZeRO 1 and 3."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gallop_ray.methods import METHODS
from gallop_ray.spec.schema import Configuration, Sweep
from gallop_ray.training.report import Silent
from gallop_ray.training.resident import Resident, load_resident
from gallop_ray.training.run import execute, measure_base
from tests.training import test_run, tiny

ALL: dict[str, dict[str, Any]] = {
    "gallop": {"density": 0.05, "selection_ratio": 0.5},
    "saft": {"density": {"lora_rank": 2}, "selection_ratio": 0.5, "scope": "per_layer"},
    "sift": {"density": 0.05},
    "snip": {"density": 0.05, "selection_ratio": 0.5, "scope": "per_matrix", "target_modules": tiny.EVERYWHERE},
    "magnitude": {"density": 0.05, "choose": "lowest"},
    "random": {"density": 0.05},
    "smt": {"density": 0.05, "selection_ratio": 0.5, "block_size": 8},
    "sara": {"density": 0.05},
    "lift": {"density": {"lora_rank": 2}, "rank": 4, "refresh_every": 2},
    "spiel": {
        **{"density": 0.05, "refresh_every": 4, "accumulate": 2, "initial_rate": 0.5, "delta_decay": 0.01},
        "target_modules": tiny.EVERYWHERE,
    },
    "lora": {"rank": 2, "dropout": 0.1},
    "dora": {"rank": 2},
    "peft": {"tuner": "ia3", "options": {"feedforward_modules": []}},
    "full": {},
    "wise_ft": {"alpha": 0.7},
    "lines": {"first": 0.25},
    "vanilla": {},
}
MASKED = list(ALL)[:10]
ADDED = ("lora", "dora", "peft")
STEPS, KEEP_EVERY = 7, 3


def test_every_method_is_here() -> None:
    assert ALL.keys() == METHODS.keys()


class Watch(Silent):
    """Notes the losses, and what the weights are when the run is about to be saved."""

    def __init__(self, path: Path, resident: Resident) -> None:
        super().__init__(path)
        self.resident, self.losses = resident, list[float]()
        self.weights: dict[str, Tensor] = {}

    def event(self, event: str, **fields: Any) -> None:
        if event == "step":
            self.losses.append(fields["loss"])
        if fields.get("phase") == "saving":
            self.weights = tiny.whole_weights(self.resident.model)


def the_sweep(stage: int) -> Sweep:
    """Eight training examples and batches of eight, so that every step sees the same."""
    asked = test_run.sweep(stage).model_dump()
    asked["data"]["limits"] = {"train": 8, "validation": 2, "test": 2}
    asked["evaluation"] = {"batch_size": 8, "generate": False}
    asked["training"] |= {"steps": STEPS, "checkpoint_steps": KEEP_EVERY}
    return Sweep.model_validate(asked)


def a_configuration(resident: Resident, name: str) -> Configuration:
    return test_run.configuration(resident, name, ALL[name], learning_rate=3e-3 if name != "peft" else 0.1)


def changed(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, set[int]]:
    """The flat indices of the entries of base weights that are not what they were."""
    found = {n: (weights[n] != b).view(-1).nonzero().view(-1).tolist() for n, b in base.items() if n in weights}
    return {n: set(entries) for n, entries in found.items() if entries}


def digest(weights: Mapping[str, Tensor]) -> float:
    return sum(float(w.double().abs().sum()) for w in weights.values())


def try_all(stage: int, folder: Path) -> dict[str, dict[str, Any]]:
    """On each rank: every method three times, whole, again, and from its last checkpoint; what is to be seen of it."""
    resident = load_resident(the_sweep(stage), test_run.load)
    base, weights = measure_base(resident).accuracies, tiny.whole_weights(resident.model)
    before = test_run.traces(resident.model)
    seen: dict[str, dict[str, Any]] = {}
    for name in ALL:
        results, watches = [], []
        for turn in ("first", "again", "resumed"):
            path = folder / f"{name}-{turn}" / "adapter.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            watch = Watch(path, resident)
            if turn == "resumed" and name != "vanilla":
                shutil.copy(watches[0].checkpoint, path.parent)
            result = execute(resident, a_configuration(resident, name), 1, base, watch)
            source = "checkpoint" if turn == "resumed" else "computed"
            assert result["scores"] == (source if getattr(METHODS[name], "needs_gradients", False) else None)
            assert tiny.same(tiny.whole_weights(resident.model), weights), f"{name} restores the base"
            assert test_run.traces(resident.model) == before, f"{name} leaves nothing behind"
            results.append({key: value for key, value in result.items() if key not in {*test_run.TIMES, "scores"}})
            watches.append(watch)
        seen[name] = {
            "results": results,
            "losses": [watch.losses for watch in watches],
            "digests": [digest(watch.weights) for watch in watches],
            "changed": changed(watches[0].weights, weights),
        }
    return seen


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("stage", [1, 3])
def test_every_method_keeps_the_contract(ranks: Callable, tmp_path: Path, world: int, stage: int) -> None:
    seen, *others = ranks(world)(try_all, stage, tmp_path)
    for other in others:
        assert other == seen, "the ranks agree, in masks, weights and results"
    for name, what in seen.items():
        first, again, resumed = what["results"]
        assert first == again, f"{name} repeats itself"
        assert first == resumed, f"{name} goes on from a checkpoint as if nothing had been"
        assert len(set(what["digests"])) == 1, f"{name} ends with the same weights"
        _check_adapters(tmp_path, name)
        if name != "vanilla":
            losses, _, rest = what["losses"]
            assert losses[-1] < losses[0], f"{name} learns"
            assert rest == losses[-len(rest) :], f"{name} repeats its last losses"
            assert 0 < len(rest) < STEPS, f"{name} did not begin anew"
        _check_reach(tmp_path, name, what)
    if world == 2:
        for losses in ranks(1)(resume_alone, stage, tmp_path).pop().values():
            assert losses[0] == pytest.approx(losses[1], abs=1e-4), "a checkpoint of two ranks goes on with one"


def _check_adapters(folder: Path, name: str) -> None:
    if name != "vanilla":
        saved = [load_file(folder / f"{name}-{turn}" / "adapter.safetensors") for turn in ("first", "again", "resumed")]
        assert tiny.same(saved[0], saved[1]), f"{name} repeats its adapter"
        assert tiny.same(saved[0], saved[2]), f"{name} resumes to the same adapter"


def _check_reach(folder: Path, name: str, what: Mapping[str, Any]) -> None:
    """Only what a method may change has changed."""
    result = what["results"][0]
    if name in ADDED or name == "vanilla":
        assert what["changed"] == {}
    elif name in MASKED:
        adapter = load_file(folder / f"{name}-first" / "adapter.safetensors")
        touched = {n.removesuffix(".indices"): set(t.tolist()) for n, t in adapter.items() if n.endswith(".indices")}
        assert sum(map(len, touched.values())) == result["mask"]["touched"]
        assert all(entries <= touched[n] for n, entries in what["changed"].items())
        assert result["mask"]["chosen"] == result["trained_parameters"]
        refreshed = name in ("lift", "spiel", "sara")
        assert (result["mask"]["touched"] > result["mask"]["chosen"]) == refreshed
        assert sum(result["mask"]["magnitudes"]["chosen"]) == result["mask"]["chosen"]


def resume_alone(stage: int, folder: Path) -> dict[str, tuple[list[float], list[float]]]:
    """On one rank: go on from what two ranks have left; the losses after it, and those that two ranks had."""
    resident = load_resident(the_sweep(stage), test_run.load)
    base, losses = measure_base(resident).accuracies, {}
    for name in ALL.keys() - {"vanilla", "lora"}:  # LoRA's dropout differs with the number of ranks
        there, alone = folder / f"{name}-first", folder / f"{name}-alone" / "adapter.safetensors"
        alone.parent.mkdir()
        shutil.copy(there / "checkpoint.safetensors", alone.parent)
        watch = Watch(alone, resident)
        execute(resident, a_configuration(resident, name), 1, base, watch)
        torch.testing.assert_close(*map(_values, (there / "adapter.safetensors", alone)), atol=3e-4, rtol=0)
        losses[name] = (watch.losses, watch.losses)
    return losses


def _values(adapter: Path) -> dict[str, Tensor]:
    return {n: t for n, t in load_file(adapter).items() if not n.endswith(".indices")}
