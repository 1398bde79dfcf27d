"""What a slot's workers answer to one job after another: no run is trained on a base model that another has changed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from torch import nn

from gallop_ray.methods.peft import Lora
from gallop_ray.records.events import Step
from gallop_ray.records.folders import SweepFolder
from gallop_ray.slots.jobs import CheckJob, Outcome, RunJob
from gallop_ray.slots.worker import _answer
from gallop_ray.sparse.base_state import base_hash
from gallop_ray.spec.configuration import configuration_key
from gallop_ray.spec.other_methods import LoraSpec
from gallop_ray.tasks.metrics import accuracies
from gallop_ray.training.resident import LoadedModel, load_base_model
from gallop_ray.training.run import measure_base
from tests.training import test_run

SOUND: Sequence[tuple[str, Mapping[str, Any]]] = (("gallop", {"density": 0.05}), ("vanilla", {}))


class Pissa(Lora):
    """Takes its first rank out of the base weights, and leaves it out."""

    def config(self, model: nn.Module) -> peft.PeftConfig:
        return peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa")


class Head(Lora):
    """Trains a copy of the output layer, which PEFT leaves in its place."""

    def config(self, model: nn.Module) -> peft.PeftConfig:
        return peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])


class Late(Lora):
    """Changes one number of the base after every step, and puts it back in the end."""

    def attach(self, model: nn.Module) -> Any:
        attachment = super().attach(model)
        weight, detach = model.get_parameter("model.norm.weight"), attachment.detach
        before = weight.detach().clone()

        def write() -> None:
            weight.data[3] += 1e-3

        def put_back() -> None:
            weight.data.copy_(before)
            detach()

        attachment.write, attachment.detach = write, put_back  # type: ignore[method-assign]
        return attachment


class Careless(Lora):
    """Leaves a hook, a frozen parameter open, and an option of the model changed."""

    def attach(self, model: nn.Module) -> Any:
        attachment = super().attach(model)
        detach = attachment.detach

        def forget() -> None:
            detach()
            model.get_submodule("model.norm").register_forward_hook(lambda module, inputs, output: output * 1.5)
            model.get_parameter("model.norm.weight").requires_grad_(True)
            model.config.use_cache = True  # type: ignore[union-attr]

        attachment.detach = forget  # type: ignore[method-assign]
        return attachment


PLANTED: Mapping[str, tuple[type, Mapping[str, Any], str, str]] = {
    "pissa": (Pissa, {}, "base_changed", "changes the base model when it attaches"),
    "head": (Head, {}, "base_changed", "left the base model changed"),
    "late": (Late, {}, "base_changed", "changes the base model while it trains (model.norm.weight holds"),
    "careless": (
        Careless,
        {},
        "base_changed",
        "LlamaConfig has changed, a parameter's requires_grad, module model.norm has other hooks",
    ),
    # Embeddings come first and take a LoRA; the norm, which takes none, refuses it half-way.
    "half-way": (Lora, {"target_modules": ["embed_tokens", "q_proj", "norm"]}, "refused", "does not fit this model"),
}


def begin(resident: LoadedModel, folder: SweepFolder) -> None:
    found = measure_base(resident)
    folder.create(resident.sweep.model_dump(mode="json"))
    folder.write_base(accuracies(found.correct), found.correct, found.outputs, None)


def answer(resident: LoadedModel, folder: SweepFolder, method: str, options: Mapping[str, Any]) -> tuple[Outcome, str]:
    """A run of seed 0, and its configuration's key."""
    configuration = test_run.configuration(resident, method, options)
    key = configuration_key(configuration)
    folder.configuration(key).create(configuration.model_dump(mode="json"))
    micro = configuration.training.micro_batch_size
    return _answer(resident, folder, RunJob(key, 0, micro), "slot-0", 0), key


def seen(resident: LoadedModel, folder: SweepFolder) -> list[Any]:
    """Losses, results and adapters of the sound methods."""
    found: list[Any] = []
    for method, options in SOUND:
        outcome, key = answer(resident, folder, method, options)
        assert outcome.status == "finished", outcome.reason
        run = folder.run(key, 0)
        losses = [event.loss for event in run.events() if isinstance(event, Step)]
        adapter = contents(run.adapter) if method != "vanilla" else {}
        found.append((losses, {k: v for k, v in outcome.result.items() if k not in test_run.TIMES}, adapter))
    return found


def contents(adapter: Path) -> dict[str, Any]:
    """Tensors and metadata, which safetensors writes in no fixed order."""
    with safe_open(adapter, framework="pt") as file:
        return {**file.metadata(), **{name: file.get_tensor(name).numpy().tobytes() for name in file.offset_keys()}}


def turns(folder: Path) -> dict[str, tuple[Outcome, bool, bool]]:
    """How each planted run ends, whether it leaves an adapter, and whether the sound ones after it are those alone."""
    resident = load_base_model(test_run.sweep(1), test_run.load)
    alone = SweepFolder(folder / "alone")
    begin(resident, alone)
    whole, expected = base_hash(resident.model), seen(resident, alone)
    results = {}
    for name, (kind, options, *_) in PLANTED.items():
        after = SweepFolder(folder / name)
        begin(resident, after)
        real, LoraSpec.implementation = LoraSpec.implementation, kind
        try:
            outcome, key = answer(resident, after, "lora", options)
        finally:
            LoraSpec.implementation = real
        assert base_hash(resident.model) == whole, name
        left = after.run(key, 0).adapter.exists() or after.run(key, 0).checkpoint.exists()
        results[name] = outcome, left, seen(resident, after) == expected
    return results


def test_no_run_trains_on_what_another_has_changed(ranks: Callable, tmp_path: Path) -> None:
    results = ranks(1)(turns, tmp_path).pop()
    assert results.keys() == PLANTED.keys()
    for name, (outcome, left, same) in results.items():
        *_, status, reason = PLANTED[name]
        assert (outcome.status, reason in str(outcome.reason)) == (status, True), f"{name}: {outcome}"
        assert not left, f"{name} leaves no adapter of a base that is not its own"
        assert same, f"{name}: gallop and vanilla are bitwise what they are alone"


def without_a_copy(folder: Path) -> tuple[Outcome, Outcome]:
    """A run that changes weights which cannot be read again, and one after it."""
    resident = replace(load_base_model(test_run.sweep(1), test_run.load), load=None)
    records = SweepFolder(folder)
    begin(resident, records)
    real, LoraSpec.implementation = LoraSpec.implementation, Pissa
    try:
        first, _ = answer(resident, records, "lora", {})
    finally:
        LoraSpec.implementation = real
    return first, answer(resident, records, "gallop", {"density": 0.05})[0]


def test_workers_whose_base_model_is_lost_start_again(ranks: Callable, tmp_path: Path) -> None:
    first, after = ranks(1)(without_a_copy, tmp_path).pop()
    for outcome in (first, after):  # the slot answers `failed` by a new start of the worker group
        assert outcome.status == "failed"
        assert "the base model cannot be restored" in str(outcome.reason) or "holds other numbers" in str(
            outcome.reason
        )


def checked(folder: Path) -> tuple[Outcome, bool]:
    resident = load_base_model(test_run.sweep(1), test_run.load)
    lora = test_run.configuration(resident, "lora", {"target_modules": ["embed_tokens", "q_proj", "norm"]}).method
    asked = replace(resident, sweep=resident.sweep.model_copy(update={"methods": (lora,)}))
    whole, before = base_hash(resident.model), test_run.traces(resident.model)
    outcome = _answer(asked, SweepFolder(folder), CheckJob(), "slot-0", 0)
    return outcome, base_hash(resident.model) == whole and test_run.traces(resident.model) == before


def test_what_peft_refuses_is_known_before_the_first_run(ranks: Callable, tmp_path: Path) -> None:
    outcome, whole = ranks(1)(checked, tmp_path).pop()
    assert outcome.status == "refused"
    assert "method lora: PEFT's lora does not fit this model" in str(outcome.reason)
    assert whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_checksum_of_a_slice_is_that_of_its_copy(dtype: torch.dtype) -> None:
    from gallop_ray.sparse.base_state import checksum

    whole = torch.arange(20_001).to(dtype)
    assert checksum(whole[1:]) == checksum(whole[1:].clone())
    for change in (0, 9_999, 19_999):
        other = whole.clone()
        other[change] = -1
        assert checksum(other) != checksum(whole)
    assert checksum(whole.flip(0)) != checksum(whole)
