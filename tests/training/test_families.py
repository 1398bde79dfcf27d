"""Whole runs of other families than Llama: at ZeRO 3 they equal those at ZeRO 1."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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


GALLOP = {"density": 0.05, "selection_ratio": 0.5}
LIFT = {"density": 0.05, "refresh_every": 2, "rank": 2}


@pytest.mark.parametrize(
    ("family", "kind", "options"),
    [("mixtral", "gallop", GALLOP), ("mixtral", "lift", LIFT), ("gpt2", "gallop", GALLOP)],
)
def test_a_run_at_zero_3_is_that_at_zero_1(
    ranks: Callable, family: str, kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    ((losses, left),) = ranks(1)(one_run, family, 1, kind, options, tmp_path / "whole.safetensors")
    assert losses[-1] < losses[0]
    assert left == ""
    ((split, left),) = ranks(1)(one_run, family, 3, kind, options, tmp_path / "split.safetensors")
    assert split == pytest.approx(losses, abs=1e-4)
    assert left == ""


def lora_refused(path: Path) -> str:
    try:
        one_run("mixtral", 3, "lora", {}, path)
    except ValueError as error:
        return str(error)
    return "nothing"


def test_lora_of_experts_is_trained_at_zero_2_and_refused_at_zero_3(ranks: Callable, tmp_path: Path) -> None:
    ((losses, left),) = ranks(1)(one_run, "mixtral", 2, "lora", {}, tmp_path / "adapter.safetensors")
    assert losses[-1] < losses[0]
    assert left == ""
    (said,) = ranks(1)(lora_refused, tmp_path / "none.safetensors")
    assert "at zero_stage 3; use zero_stage 2 or less, or leave experts out of target_modules" in said
