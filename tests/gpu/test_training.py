"""Training on a device: equal to dense masked AdamW, the same bits twice, nothing left behind, masks as on the CPU."""

import gc
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from gallop_ray.methods import make_method
from gallop_ray.sparse.budget import Quota
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.mask import choose_within
from gallop_ray.sparse.memory import free_memory, is_out_of_memory
from gallop_ray.spec.data import ModelSpec
from gallop_ray.testing import Case, check_case, shared_ranks
from gallop_ray.testing.contract import Asked, Watch, the_configuration, the_sweep
from gallop_ray.testing.model import load, same, whole_weights
from gallop_ray.training.resident import LoadedModel, load_base_model
from gallop_ray.training.run import execute, measure_base
from gallop_ray.training.selection import select
from tests.methods.test_contract import asked
from tests.training import tiny
from tests.training.test_equality import dense_reference, sparse_losses


@pytest.mark.gpu
@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("name", ["gallop", "lift", "spiel", "lora", "hybrid", "full"])
def test_a_method_keeps_the_contract_on_a_gpu(name: str, stage: int) -> None:
    """Twice, and resumed, with the same bits; the base restored, also after failures."""
    kind, options, rate = asked(name)
    check_case(Case(1, stage, "nccl"), kind, options, learning_rate=rate)


@pytest.mark.parametrize(("stage", "checkpointing"), [(1, False), (3, True)])
def test_sparse_training_equals_dense_masked_adamw(
    ranks_on: Callable, device: str, stage: int, checkpointing: bool
) -> None:
    sweep = tiny.sweep(stage, weight_decay=0.1, clip_norm=0.5, gradient_checkpointing=checkpointing)
    losses, weights = dense_reference(sweep)
    (result,) = ranks_on(1)(sparse_losses, sweep, 2)
    assert result["losses"][0] == pytest.approx(losses, abs=1e-5 if device == "cpu" else 1e-4)
    assert result["losses"][0] == result["losses"][1], "the second run repeats the first, bitwise"
    assert result["outside"] == []
    assert result["restored"]
    for name, weight in result["trained"].items():
        torch.testing.assert_close(weight, weights[name], atol=1e-5 if device == "cpu" else 1e-4, rtol=1e-3)


def masks(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, torch.Tensor]]:
    """On a rank: the masks of these methods."""
    resident, found = tiny.resident(tiny.sweep(1)), {}
    for name, options in methods.items():
        context = tiny.context(resident, method={"type": name, **options})
        method: Any = make_method(context.configuration.method)
        chosen = select(context, find_candidates(resident.model), method).mask.indices
        found[name] = {place: indices.cpu() for place, indices in chosen.items()}
    return found


@pytest.mark.gpu
def test_masks_are_those_of_the_cpu() -> None:
    gradients = {"density": 0.05, "selection_ratio": 0.5}
    methods = {"gallop": gradients, "saft": gradients, "magnitude": {"density": 0.05}, "random": {"density": 0.05}}
    (here,), (there,) = shared_ranks(1)(masks, methods), shared_ranks(1, "nccl")(masks, methods)
    for name in methods:
        sets = [{(p, i) for p, of_it in m[name].items() for i in of_it.tolist()} for m in (here, there)]
        assert len(sets[0]) == len(sets[1])
        # Gradients differ in their last bits: entries at the very border may change places.
        assert len(sets[0] - sets[1]) <= (0.002 * len(sets[0]) if "selection_ratio" in methods[name] else 0), name


def test_the_choice_among_scores_is_exact(device: str) -> None:
    """Without a process group, as in the library; a third of the scores are equal."""
    draw = torch.Generator().manual_seed(3)
    scores = {m: (torch.rand(40, 30, generator=draw) * 400).round() for m in range(3)}
    there = choose_within({m: s.to(device) for m, s in scores.items()}, [Quota((0, 1, 2), 777)], 3)
    flat = torch.cat([s.view(-1) for s in scores.values()])
    best = flat.sort(descending=True, stable=True).indices[:777].sort().values
    assert torch.equal(torch.cat([there[m].cpu() + 1200 * m for m in range(3)]), best)
    assert all(indices.device.type == device for indices in there.values())


def in_bfloat16(methods: list[str], folder: Path) -> dict[str, Any]:
    """On a rank: each method twice; losses, whether the base is restored, and the GPU's memory after each run."""
    sweep = the_sweep(1)
    resident = load_base_model(sweep.model_copy(update={"model": ModelSpec(name="tiny", dtype="bfloat16")}), load)
    base, weights = measure_base(resident).accuracies, whole_weights(resident.model)
    losses, memory, restored = {}, [], True
    for name in methods:
        kind, options, rate = asked(name)
        for turn in range(2):
            watch = Watch(folder / f"{name}-{turn}.safetensors", resident)
            execute(resident, the_configuration(Asked(kind, options, rate), checkpoint_steps=None), 1, base, watch)
            losses[f"{name}-{turn}"] = watch.losses
            restored &= same(whole_weights(resident.model), weights)
            del watch
            memory.append(allocated())
    return {"losses": losses, "memory": memory, "restored": restored, "device": str(resident.device.type)}


def allocated() -> int:
    """Bytes of the GPU that tensors hold; 0 without one."""
    gc.collect()
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def test_bfloat16_runs_repeat_themselves_and_free_their_memory(ranks_on: Callable, device: str, tmp_path: Path) -> None:
    methods = ["gallop", "lora", "full"]
    (found,) = ranks_on(1)(in_bfloat16, methods, tmp_path)
    assert found["device"] == device
    assert found["restored"]
    for name in methods:
        first, again = found["losses"][f"{name}-0"], found["losses"][f"{name}-1"]
        assert first == again, "bitwise"
        assert first[-1] < first[0]
    # Of one method's second run no more is left than of its first.
    assert all(now - before < 2**20 for before, now in zip(found["memory"][::2], found["memory"][1::2], strict=True))


def short_of_memory() -> dict[str, Any]:
    """On a rank with a GPU: a micro-batch that does not fit, and a smaller one after it."""
    resident: LoadedModel = tiny.resident(tiny.sweep(1))
    forward = partial(resident.model, use_cache=False)
    few = torch.ones(1, 200, dtype=torch.long, device=resident.device)
    forward(few)  # cuBLAS keeps a workspace from its first product on
    free_memory()
    before, total = allocated(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((before + 60e6) / total)
    error = None
    try:
        try:
            forward(few.repeat(64, 10))  # logits of 49 MB, and a block takes three times that
        except Exception as failure:
            error = f"{is_out_of_memory(failure)} {type(failure).__name__}"
        free_memory()
        grown = allocated() - before
        forward(few)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return {"error": error, "grown": grown}


@pytest.mark.gpu
def test_a_gpu_out_of_memory_is_told_as_such_and_usable_again() -> None:
    (found,) = shared_ranks(1, "nccl")(short_of_memory)
    assert found["error"] == "True OutOfMemoryError"
    assert found["grown"] < 2**20
