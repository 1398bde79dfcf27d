"""Runs of other families than Llama on real ranks: whole ones at ZeRO 3 on two equal whole ones at ZeRO 1 on one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gallop_ray.sparse.adapter import apply_adapter, load_adapter
from gallop_ray.testing.contract import Asked, Watch, the_configuration, the_sweep
from gallop_ray.testing.model import same, traces, whole_weights
from gallop_ray.training.pocket import pocket_tokenizer
from gallop_ray.training.resident import load_base_model
from gallop_ray.training.run import execute, measure_base
from tests.families import make_model


def one_run(family: str, stage: int, kind: str, options: dict[str, Any], path: Path) -> tuple[list[float], str]:
    """On each rank, a whole run: its losses, and what of the base model is not as before."""
    resident = load_base_model(the_sweep(stage), lambda spec: (make_model(family).eval(), pocket_tokenizer()))
    base, weights, before = measure_base(resident).accuracies, whole_weights(resident.model), traces(resident.model)
    watch = Watch(path, resident)
    configuration = the_configuration(Asked(kind, options, 1e-2), steps=4, checkpoint_steps=None)
    execute(resident, configuration, 1, base, watch)
    left = "weights" if not same(whole_weights(resident.model), weights) else ""
    return watch.losses, left + ("traces" if traces(resident.model) != before else "")


@pytest.mark.parametrize("family", ["mixtral", "gpt2", "gemma2"])
def test_a_mask_is_trained_at_zero_3_as_on_one_rank(ranks: Callable, family: str, tmp_path: Path) -> None:
    options = {"density": 0.05, "selection_ratio": 0.5}
    alone, split = tmp_path / "alone.safetensors", tmp_path / "split.safetensors"
    ((losses, left),) = ranks(1)(one_run, family, 1, "gallop", options, alone)
    assert left == ""
    for of_rank, left in ranks(2)(one_run, family, 3, "gallop", options, split):
        assert of_rank == pytest.approx(losses, abs=1e-4)
        assert left == ""
    found, other = load_adapter(alone)[0], load_adapter(split)[0]
    assert found.keys() == other.keys()
    for name, (indices, delta) in found.items():
        assert torch.equal(indices, other[name][0])
        torch.testing.assert_close(delta, other[name][1], atol=1e-4, rtol=1e-3)
    model = make_model(family)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    apply_adapter(model, split)
    assert any(not torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_experts_are_chosen_again_at_zero_3(ranks: Callable, tmp_path: Path) -> None:
    options = {"density": 0.05, "refresh_every": 2, "rank": 2}
    ((losses, left),) = ranks(1)(one_run, "mixtral", 1, "lift", options, tmp_path / "alone.safetensors")
    assert left == ""
    for of_rank, left in ranks(2)(one_run, "mixtral", 3, "lift", options, tmp_path / "split.safetensors"):
        assert of_rank == pytest.approx(losses, abs=1e-4)
        assert left == ""


def lora_refused(path: Path) -> str:
    try:
        one_run("mixtral", 3, "lora", {}, path)
    except ValueError as error:
        return str(error)
    return "nothing"


def test_lora_of_experts_is_trained_at_zero_2_and_refused_at_zero_3(ranks: Callable, tmp_path: Path) -> None:
    for losses, left in ranks(2)(one_run, "mixtral", 2, "lora", {}, tmp_path / "adapter.safetensors"):
        assert losses[-1] < losses[0]
        assert left == ""
    for said in ranks(2)(lora_refused, tmp_path / "none.safetensors"):
        assert "at zero_stage 3; use zero_stage 2 or less, or leave experts out of target_modules" in said
