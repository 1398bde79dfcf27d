"""A mask method in a plain loop gives what a sweep gives on the same batches: the same mask, the same values."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gallop_ray.sparse import EntryAdamW, attach
from gallop_ray.spec.mask_methods import GraspSpec, LtSftSpec
from gallop_ray.spec.method import BUILT_IN, MaskMethodSpec
from gallop_ray.spec.schema import Configuration, Sweep
from gallop_ray.tasks.encode import Encoded, answer_loss, collate
from gallop_ray.training.batches import batches
from gallop_ray.training.context import NullReporter, Phases, RunContext
from gallop_ray.training.draw import draw
from gallop_ray.training.loop import learning_rate
from gallop_ray.training.resident import LoadedModel, load_base_model
from gallop_ray.training.run import execute, measure_base
from tests.training import test_run, tiny

SEED, STEPS, MICRO = 5, 6, 4
HERE: dict[str, dict[str, Any]] = {
    "gallop": {"density": 0.05, "selection_ratio": 0.5},
    "saft": {"density": {"lora_rank": 2}, "selection_ratio": 0.5, "scope": "per_layer"},
    "sift": {"density": 0.05},
    "snip": {"density": 0.05, "selection_ratio": 0.5, "target_modules": tiny.EVERYWHERE},
    "magnitude": {"density": 0.05, "choose": "lowest"},
    "random": {"density": 0.05},
    "smt": {"density": 0.05, "selection_ratio": 0.5, "block_size": 8},
    "gem": {"density": 0.05, "selection_ratio": 0.5},
    "skeleton": {"density": 0.05, "selection_ratio": 0.5},
    "fisher": {"density": 0.05, "selection_ratio": 0.5},
    "taylor": {"density": 0.05, "selection_ratio": 0.5},
    "wanda": {"density": 0.05, "selection_ratio": 0.5},
    "synflow": {"density": 0.05},
    "s2ft": {"density": 0.05},
    "gasdu": {"density": 0.05, "refresh_every": 2},
    "sara": {"density": 0.05},
    "lift": {"density": {"lora_rank": 2}, "rank": 4, "refresh_every": 2},
    "spiel": {"density": 0.05, "refresh_every": 3, "accumulate": 2, "initial_rate": 0.5, "delta_decay": 0.1},
}


def answers(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Each example's mean answer loss (examples,), as a sweep has it."""
    inputs = dict(batch)
    labels = inputs.pop("labels")
    return answer_loss(model(**inputs).logits, labels)


def collated(resident: LoadedModel, examples: list[Encoded], size: int) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(examples), size):
        yield collate(examples[start : start + size], resident.tokenizer.pad_token_id)


def by_a_sweep(resident: LoadedModel, configuration: Configuration, folder: Path) -> Path:
    reporter = NullReporter(folder / "sweep.safetensors")
    execute(resident, configuration, SEED, measure_base(resident).accuracies, reporter)
    return reporter.adapter


def by_a_plain_loop(resident: LoadedModel, configuration: Configuration, folder: Path) -> Path:
    training, spec = configuration.training, configuration.method
    context = RunContext(resident, configuration, SEED, NullReporter(folder), Phases(NullReporter(folder)))
    model, _ = test_run.load(resident.sweep.model)
    chosen = draw(context, spec)
    examples = sorted((resident.train[i] for i in chosen.rung(chosen.asked)), key=lambda e: len(e.input_ids))
    scored = collated(resident, examples, training.micro_batch_size if spec.evidence == "gradients" else 1)
    options = spec.model_dump(exclude={"selection_ratio"})
    needed = scored if spec.needs_gradients else None
    adapter = attach(
        model, type(spec).model_validate(options), needed, loss=lambda m, b: answers(m, b).sum(), seed=SEED
    )
    kind = EntryAdamW if spec.entry_ages else torch.optim.AdamW
    optimizer = kind(adapter.parameters(), lr=1.0, weight_decay=training.weight_decay)
    if spec.refreshes:
        adapter.refresh_with(optimizer, STEPS)
    stream = batches(resident.train, training.batch_size, SEED)
    model.train()
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = learning_rate(training, step, STEPS)
        parts = list(collated(resident, next(stream), training.micro_batch_size))
        for part in parts:
            (answers(model, part).mean() / len(parts)).backward()
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), training.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    adapter.save(folder / "plain.safetensors")
    return folder / "plain.safetensors"


@cache
def the_resident() -> LoadedModel:
    """On the rank, once: a base model in float32, and its data."""
    asked = test_run.sweep(0).model_dump()
    asked["data"]["limits"] = {"train": 24, "validation": 2, "test": 2}
    asked["evaluation"] = {"batch_size": 8, "generate": False}
    asked["training"] |= {"steps": STEPS, "micro_batch_size": MICRO, "weight_decay": 0.1}
    return load_base_model(Sweep.model_validate(asked), test_run.load)


def both(name: str, folder: Path) -> tuple[Path, Path]:
    """On one rank: the adapters that a sweep's run and a plain loop leave."""
    resident = the_resident()
    configuration = test_run.configuration(resident, name, HERE[name])
    return by_a_sweep(resident, configuration, folder), by_a_plain_loop(resident, configuration, folder)


def test_all_mask_methods_are_here() -> None:
    masks = {name for name, spec in BUILT_IN.items() if issubclass(spec, MaskMethodSpec)}
    assert HERE.keys() == masks - {"lt_sft", "grasp"}, "which a sweep alone does"


def test_a_mask_that_asks_for_full_training_is_refused() -> None:
    with pytest.raises(ValueError, match="which a sweep does"):
        attach(tiny.model(), LtSftSpec())


def test_a_mask_that_asks_for_second_derivatives_is_refused() -> None:
    with pytest.raises(ValueError, match="grasp differentiates twice, at a temperature of its own, which a sweep does"):
        attach(tiny.model(), GraspSpec())


RARELY = ("gem", "skeleton", "taylor", "s2ft")
"""Those that ask nothing of the loop that others do not: long tests."""


@pytest.mark.parametrize("name", [pytest.param(each, marks=[pytest.mark.long] * (each in RARELY)) for each in HERE])
def test_a_plain_loop_gives_what_a_sweep_gives(ranks: Callable, tmp_path: Path, name: str) -> None:
    sweep, plain = (load_file(path) for path in ranks(1)(both, name, tmp_path).pop())
    assert sweep.keys() == plain.keys()
    for key, tensor in sweep.items():
        if key.endswith(".indices"):
            assert torch.equal(tensor, plain[key])
        else:
            torch.testing.assert_close(plain[key], tensor, atol=1e-6, rtol=0)
            assert tensor.any()
