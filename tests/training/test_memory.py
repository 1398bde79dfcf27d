"""Runs one after another in one process do not add up in memory."""

import ctypes
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from deepspeed import DeepSpeedEngine
from transformers import LlamaConfig, LlamaForCausalLM

from gallop_ray.spec.data import ModelSpec
from gallop_ray.training.pocket import pocket_tokenizer
from gallop_ray.training.resident import load_base_model
from gallop_ray.training.run import execute
from tests.training import test_run

RUNS = 20
SETTLED = 3  # runs until the allocator's pools have their size


class Watch:
    """A reporter that, while a run trains, takes weak references to its engine and optimizers."""

    def __init__(self, adapter: Path) -> None:
        self.adapter = adapter
        self.checkpoint = adapter.with_name("none")
        self.seen: list[weakref.ref] = []

    def event(self, event: str, **fields: Any) -> None:
        if event == "step" and fields["step"] == 2:
            heavy = (DeepSpeedEngine, torch.optim.Optimizer)
            found = [o for o in gc.get_objects() if isinstance(o, heavy) or "ZeroOptimizer" in type(o).__name__]
            self.seen += map(weakref.ref, found)


def load(spec: ModelSpec) -> tuple[LlamaForCausalLM, Any]:
    """A model of 2.7 million parameters."""
    tokenizer = pocket_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=3,
        num_attention_heads=4,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config).to(getattr(torch, spec.dtype)), tokenizer


def resident_bytes() -> int:
    """Of this process, without what the allocator merely keeps."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return psutil.Process().memory_info().rss


def run_often(stage: int, folder: Path) -> dict[str, Any]:
    """On each rank: the runs' trained values, how much memory they added up, and what of them is still alive."""
    resident = load_base_model(test_run.sweep(stage), load)
    short = test_run.configuration(resident, "random", {"density": 0.75}, steps=2, batch_size=2)
    watch, memory = Watch(folder / "adapter.safetensors"), []
    for seed in range(RUNS):
        result = execute(resident, short, seed, {}, watch)
        memory.append(resident_bytes())
    return {
        "trained": result["trained_parameters"],
        "growth": memory[-1] - memory[SETTLED - 1],
        "seen": len(watch.seen),
        # Of what DeepSpeed's own closures keep under ZeRO-3, nothing may be left but an empty shell.
        "alive": [type(o).__name__ for ref in watch.seen if (o := ref()) is not None and vars(o)],
    }


@pytest.mark.long
@pytest.mark.parametrize("stage", [1, 3])
def test_twenty_runs_of_two_million_values_do_not_add_up(ranks: Callable, tmp_path: Path, stage: int) -> None:
    (result,) = ranks(1)(run_often, stage, tmp_path)
    assert result["trained"] > 2_000_000
    assert result["seen"] >= 2 * RUNS, "each run had an engine and an optimizer"
    assert result["alive"] == []
    assert result["growth"] < 30e6
