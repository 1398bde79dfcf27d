"""The estimate against what a real run of a Llama of 33 million parameters keeps, tensor by tensor."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from gallop_ray.methods import MaskMethod, make_method
from gallop_ray.sparse.base_state import BaseState
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.scoring import score_owned
from gallop_ray.spec.configuration import resolve
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.encode import IGNORED, Encoded
from gallop_ray.training.attach import attached
from gallop_ray.training.context import NullReporter, Phases, RunContext
from gallop_ray.training.curvature import accumulate_products
from gallop_ray.training.engine import Engine, init_distributed, quiet, split_over_ranks
from gallop_ray.training.gradient_pass import accumulate
from gallop_ray.training.memory import Estimate, estimate
from gallop_ray.training.resident import LoadedModel
from gallop_ray.training.run import checkpointing

ANSWER = 6  # tokens
GALLOP = {"type": "gallop", "density": 0.02, "selection_ratio": 0.2}
RANDOM = {"type": "random", "density": {"lora_rank": 16}}
GRASP = {"type": "grasp", "density": 0.02, "selection_ratio": 0.2}
LORA, FULL = {"type": "lora", "rank": 16}, {"type": "full"}


def a_sweep(method: dict[str, Any], stage: int, dtype: str, workers: int = 2, **training: Any) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "memory",
            "model": {"name": "random weights", "dtype": dtype},
            "data": {"root": "generated", "train": "none"},
            "methods": [method],
            "resources": {"workers_per_slot": workers},
            "deepspeed": {"zero_stage": stage},
            "evaluation": {"max_new_tokens": ANSWER - 1},
            "training": {"batch_size": 2 * workers, "micro_batch_size": 2, "max_length": 8, **training},
        }
    )


def a_llama(dtype: str) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, dtype)).requires_grad_(False).eval()
    assert sum(p.numel() for p in model.parameters()) > 30_000_000
    return model


def a_resident(sweep: Sweep) -> LoadedModel:
    """A LoadedModel as load_base_model makes it; its examples are of full length but for one."""
    base = a_llama(sweep.model.dtype)
    length, generator = sweep.training.max_length, torch.Generator().manual_seed(0)
    train = []
    for i in range(8):
        ids = torch.randint(1, 8000, (length - (i == 0),), generator=generator).tolist()
        train.append(Encoded(ids, [IGNORED] * (len(ids) - ANSWER) + ids[-ANSWER:]))
    total = sum(p.numel() for p in base.parameters())
    whole = LoadedModel(sweep, base, SimpleNamespace(pad_token_id=0), "random", total, {}, train)
    if whole.stage == 3:
        split_over_ranks(base, whole.config(sweep.training))
    return replace(whole, at_rest=BaseState(base))


def a_context(resident: LoadedModel) -> RunContext:
    sweep, reporter = resident.sweep, NullReporter(Path())
    return RunContext(resident, resolve(sweep, sweep.methods[0].name, {}), 0, reporter, Phases(reporter))


def estimated(sweep: Sweep) -> Estimate:
    with torch.device("meta"):
        model = a_llama(sweep.model.dtype)
    return estimate(model, sweep, resolve(sweep, sweep.methods[0].name, {}))


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes by storage, so that views count once."""
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def stored(parameters: Iterable[Tensor]) -> list[Tensor]:
    """What this rank stores of parameters: under ZeRO-3 the shards."""
    return [getattr(p, "ds_tensor", p) for p in parameters]


def tensors_in(thing: Any, seen: set[int]) -> Iterator[Tensor]:
    """All tensors that an object holds, and their gradients; but not those of modules."""
    if id(thing) in seen or isinstance(thing, nn.Module):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield from stored([thing])
        if thing.grad is not None:
            yield thing.grad
    elif isinstance(thing, Mapping):
        for each in thing.values():
            yield from tensors_in(each, seen)
    elif isinstance(thing, list | tuple | set):
        for each in thing:
            yield from tensors_in(each, seen)
    elif type(thing).__module__.startswith(("deepspeed.runtime.zero.stage", "torch.optim", "gallop_ray")):
        yield from tensors_in(vars(thing), seen)


class Values:
    """The most that optimizer and attachment ever held beside the base weights, and the most that was gathered."""

    def __init__(self, base: list[nn.Parameter], attachment: Any, engine: Engine, adamw: torch.optim.AdamW) -> None:
        self.base = base
        self.holders = [attachment, attachment.parameters, engine._engine.optimizer, adamw]
        self.peak = self.gathered = 0
        for module in engine.module.modules():
            module.register_forward_pre_hook(lambda *_: self.look_at_base())
        adamw.register_step_pre_hook(lambda *_: self.look())
        adamw.register_step_post_hook(lambda *_: self.look())
        for parameter in attachment.parameters:
            parameter.register_post_accumulate_grad_hook(lambda _: self.look())

    def look(self) -> None:
        weights = storages(stored(self.base))
        held = storages(t for t in tensors_in(self.holders, set()) if t.numel())
        self.peak = max(self.peak, sum(size for at, size in held.items() if at not in weights))

    def look_at_base(self) -> None:
        whole = [p for p in self.base if hasattr(p, "ds_tensor") and p.shape == p.ds_shape]
        self.gathered = max(self.gathered, sum(p.numel() * p.element_size() for p in whole))


def real_parts(sweep: Sweep) -> dict[str, int]:
    """On each rank: bytes of every part in a run of two steps, with the shipped engine and configuration."""
    quiet()
    init_distributed()
    resident, training = a_resident(sweep), sweep.training
    configuration = resolve(sweep, sweep.methods[0].name, {})
    base = list(resident.model.parameters())
    parts = {"weights": sum(storages(stored(base)).values()), "scores": score_bytes(resident, configuration.method)}
    with attached(a_context(resident)) as what:
        attachment = what.attachment
        adamw = torch.optim.AdamW(attachment.parameters, lr=1e-4)
        trained = sum(getattr(p, "ds_numel", p.numel()) for p in attachment.parameters)
        engine = Engine(attachment.module, resident.config(training, trained), adamw)
        engine.module.train()
        values = Values(base, attachment, engine, adamw)
        # Moments during the backward pass, and what ZeRO-3 keeps for it, are there from the second step on.
        for _ in range(2):
            loss = resident.losses(engine, resident.train[:2]).mean()
            engine.backward(loss)
            values.look()
            engine.step(1e-4)
            attachment.write()
        engine.close()
    return {**parts, "values": values.peak, "gathered": values.gathered, "trained": trained}


def score_bytes(resident: LoadedModel, spec: Any) -> int:
    """Of the accumulators, and of the scores that take their place."""
    method = make_method(spec)
    if not isinstance(method, MaskMethod):
        return 0
    owned = OwnedGradients(find_candidates(resident.model, spec.target_modules))
    if method.needs_gradients:
        with owned.capture_gradients(), resident.usable(resident.model, resident.sweep.training):
            accumulate(resident, resident.train[:2], resident.sweep.training, Phases(NullReporter(Path())))
    sums = sum(storages(owned.sums.values()).values())
    scores = sum(storages(score_owned(owned, method, 0).values()).values())
    assert sums == (scores if method.needs_gradients else 0)
    return scores


@pytest.mark.parametrize(
    ("method", "stage", "dtype"),
    [
        (GALLOP, 0, "float32"),
        pytest.param(RANDOM, 1, "bfloat16", marks=pytest.mark.long),
        (GALLOP, 3, "float32"),
        pytest.param(LORA, 2, "bfloat16", marks=pytest.mark.long),
        pytest.param(FULL, 0, "float32", marks=pytest.mark.long),
        pytest.param(FULL, 2, "float32", marks=pytest.mark.long),
        pytest.param(FULL, 3, "bfloat16", marks=pytest.mark.long),
    ],
)
def test_weights_scores_and_values_are_those_of_a_run(
    ranks: Callable[[int], Any], method: dict[str, Any], stage: int, dtype: str
) -> None:
    sweep = a_sweep(method, stage, dtype)
    expected = estimated(sweep)
    real = ranks(2)(real_parts, sweep)
    assert {each["trained"] for each in real} == {expected.trained}
    for part in ("weights", "gathered", "scores", "values"):
        largest = max(each[part] for each in real)
        assert getattr(expected, part) == pytest.approx(largest, rel=0.25), part


def _dense(value: object) -> bool:
    """Whether it has a storage of its own: a sparse pattern is made of tensors that are seen themselves."""
    return isinstance(value, Tensor) and value.layout == torch.strided


class Live(TorchDispatchMode):
    """The most bytes of storages that are alive at once, of those made while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _dense(t)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if _dense(tensor) and tensor.untyped_storage()._cdata not in inputs:
                storage = tensor.untyped_storage()
                self.made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.made = {at: made for at, made in self.made.items() if not made[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.made.values()))
        return result


@pytest.mark.parametrize(
    ("method", "dtype", "recomputed"),
    [
        (GALLOP, "float32", False),
        (GALLOP, "float32", True),
        pytest.param(GALLOP, "bfloat16", False, marks=pytest.mark.long),
        (LORA, "float32", True),
        (FULL, "float32", False),
        pytest.param(FULL, "float32", True, marks=pytest.mark.long),
    ],
)
def test_activations_are_the_most_that_a_pass_keeps(method: dict[str, Any], dtype: str, recomputed: bool) -> None:
    # bfloat16 is slow on a CPU without the instructions for it.
    length = 64 if dtype == "float32" else 8
    sweep = a_sweep(method, 1, dtype, workers=1, max_length=length, gradient_checkpointing=recomputed)
    resident = a_resident(sweep)
    with (
        checkpointing(resident.model, sweep.training),
        attached(a_context(resident)) as what,
    ):
        attachment = what.attachment
        attachment.module.train()
        for parameter in attachment.parameters:
            parameter.grad = torch.zeros_like(parameter)
        with Live() as live:
            resident.losses(attachment.module, resident.train[:2]).mean().backward()
    assert estimated(sweep).activations == pytest.approx(live.peak, rel=0.25)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_grasp_s_scoring_is_counted_where_it_needs_more_than_training(dtype: str) -> None:
    length = 64 if dtype == "float32" else 8
    sweep = a_sweep(GRASP, 1, dtype, workers=1, max_length=length)
    resident, expected = a_resident(sweep), estimated(sweep)
    owned = OwnedGradients(find_candidates(resident.model), "products")
    phases = Phases(NullReporter(Path()))
    with Live() as live:
        accumulate_products(resident, resident.train, sweep.training, phases, owned, temperature=200.0)
    assert expected.activations + expected.scores == pytest.approx(live.peak, rel=0.25)
    split = a_sweep(GRASP, 3, dtype, workers=2, max_length=length)
    assert estimated(split).gathered == sum(p.nbytes for p in resident.model.parameters())


def test_an_estimate_leaves_the_model_as_it_was() -> None:
    with torch.device("meta"):
        model = a_llama("bfloat16")
    before = [(name, type(module), module.training) for name, module in model.named_modules()]
    for method in (LORA, GALLOP, GRASP, FULL):
        sweep = a_sweep(method, 3, "bfloat16", gradient_checkpointing=True)
        estimate(model, sweep, resolve(sweep, method["type"], {}))
    assert [(name, type(module), module.training) for name, module in model.named_modules()] == before
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"target_modules": ["q_porj"]}, "target module 'q_porj' matches nothing; the model has"),
        ({"density": 0.99}, "lower the density or widen target_modules"),
    ],
)
def test_what_cannot_be_had_is_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimated(a_sweep({"type": "gallop", **option}, 1, "float32"))


@pytest.mark.parametrize(("method", "stage"), [(GALLOP, 1), (FULL, 1), (FULL, 3)])
def test_weights_that_are_held_need_their_fisher_information(method: dict[str, Any], stage: int) -> None:
    """A float32 number an entry; of a mask those of all candidates, too, and first those of all entries."""
    sweep = a_sweep(method, stage, "bfloat16")
    held = sweep.model_copy(update={"training": sweep.training.model_copy(update={"ewc": 1.0})})
    without, found = estimated(sweep), estimated(held)
    more = {"gallop": 1.5 * found.trained, "full": found.trained / (2 if stage == 3 else 1)}[method["type"]]
    assert found.values - without.values == pytest.approx(4 * more, rel=1e-3)
    assert found.offloaded - without.offloaded == (found.scores if method is GALLOP else 0)


def test_offloading_moves_bytes_to_the_host() -> None:
    sweep = a_sweep(FULL, 3, "bfloat16")
    here = estimated(sweep)
    deepspeed = {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True}
    there = estimated(Sweep.model_validate({**sweep.model_dump(), "deepspeed": deepspeed}))
    assert (there.weights, there.values) == (0, 0)
    assert there.offloaded == here.weights + here.values
    assert there.activations == here.activations


def test_scores_are_gone_when_values_come() -> None:
    parts = {"weights": 1, "gathered": 2, "activations": 4, "offloaded": 8, "parameters": 100, "trained": 10}
    assert Estimate(**parts, scores=16, values=32).total == 39
    assert Estimate(**parts, scores=32, values=16).total == 39
