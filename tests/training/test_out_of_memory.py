"""A run whose micro-batches are too large for the memory leaves nothing behind, and smaller ones do as if asked for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gallop_ray.slots.failures import classify
from gallop_ray.sparse.base_state import BaseState
from gallop_ray.sparse.memory import free_memory
from gallop_ray.training.context import NullReporter
from gallop_ray.training.resident import load_base_model
from gallop_ray.training.run import execute, measure_base
from tests.training import tiny
from tests.training.test_run import METHODS, TIMES, configuration, load, sweep, traces


def hold_two_examples(model: torch.nn.Module) -> None:
    """From now on a forward pass of the training on more than two examples asks for more memory than there is."""

    def allocate(module: torch.nn.Module, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        if module.training and len(kwargs["input_ids"]) > 2:
            torch.empty(1 << 60, dtype=torch.uint8)

    model.register_forward_pre_hook(allocate, with_kwargs=True)


def run_out_of_memory(stage: int, folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """On each rank: what the runs with large micro-batches end with, and the results of small ones before and after."""
    resident = load_base_model(sweep(stage), load)
    hold_two_examples(resident.model)
    resident = replace(resident, at_rest=BaseState(resident.model))  # the hook belongs to this base model
    base, weights = measure_base(resident).accuracies, tiny.whole_weights(resident.model)
    before = traces(resident.model)
    failures, results = [], []
    for turn, method in enumerate(("gallop", "gallop", "lora", "full")):
        options = METHODS[method]
        if turn:
            large = configuration(resident, method, options, micro_batch_size=4)
            with pytest.raises(RuntimeError) as error:
                execute(resident, large, 0, base, NullReporter(folder / "none.safetensors"))
            failures.append(classify(error.value))
            del error
            free_memory()
            assert tiny.same(tiny.whole_weights(resident.model), weights), f"{method} restores the base"
            assert traces(resident.model) == before, f"{method} leaves nothing behind"
        small = configuration(resident, method, options, micro_batch_size=2)
        result = execute(resident, small, 0, base, NullReporter(folder / f"{turn}.safetensors"))
        results.append({key: value for key, value in result.items() if key not in TIMES})
    return failures, results


@pytest.mark.parametrize(("world", "stage"), [(1, 1), pytest.param(2, 3, marks=pytest.mark.long)])
def test_smaller_micro_batches_after_out_of_memory(ranks: Callable, tmp_path: Path, world: int, stage: int) -> None:
    failures, results = ranks(world)(run_out_of_memory, stage, tmp_path)[0]
    assert failures == ["out_of_memory"] * 3
    assert [result["micro_batch_size"] for result in results] == [2] * 4
    assert results[0] == results[1], "as if the smaller size had been asked for"
    assert tiny.same(load_file(tmp_path / "0.safetensors"), load_file(tmp_path / "1.safetensors"))
