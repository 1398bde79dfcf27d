"""Elastic weight consolidation equals a slow dense reference in plain PyTorch, and is repeated bitwise."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.optimizers import MASTER
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.encode import Encoded, answer_loss, collate
from gallop_ray.testing.model import load
from gallop_ray.training.attach import attached
from gallop_ray.training.batches import batches
from gallop_ray.training.context import RunContext
from gallop_ray.training.engine import Engine
from gallop_ray.training.fisher import fisher_of_all, fisher_of_weights
from gallop_ray.training.held import Held
from gallop_ray.training.loop import train
from gallop_ray.training.pause import Judged
from gallop_ray.training.resident import load_base_model
from gallop_ray.training.run import _optimizer, execute_until, measure_base
from gallop_ray.training.schedules import learning_rate
from tests.training import test_run, tiny
from tests.training.test_pause import Reporter

SEED, STEPS, STRENGTH = 3, 4, 3000.0
MASK = {"type": "magnitude", "density": 0.1, "scope": "per_matrix"}
METHODS: dict[str, dict[str, Any]] = {"mask": MASK, "full": {"type": "full"}}


def kept_examples() -> list[Encoded]:
    """Five: two ranks do not have equally many."""
    return tiny.examples(40)[-5:]


def the_sweep(stage: int, ewc: float = STRENGTH, dtype: str = "float32", **training: Any) -> Sweep:
    """Not validated: the tiny model's data have no tasks."""
    asked: dict[str, Any] = {"steps": STEPS, "learning_rate": 3e-3, "clip_norm": 0.1, **training}
    sweep = tiny.sweep(stage, dtype, **asked)
    return sweep.model_copy(update={"training": sweep.training.model_copy(update={"ewc": ewc})})


def the_context(sweep: Sweep, method: dict[str, Any]) -> RunContext:
    resident = replace(tiny.resident(sweep), fisher_examples=kept_examples())
    return tiny.context(resident, SEED, method=method)


def trained(sweep: Sweep, method: dict[str, Any]) -> dict[str, Any]:
    """On each rank: a run's weights at its end, the optimizer's float32 values, and whether the base came back."""
    context = the_context(sweep, method)
    model = context.resident.model
    before = tiny.whole_weights(model)
    torch.manual_seed(SEED)
    with attached(context) as what:
        k = sum(getattr(p, "ds_numel", p.numel()) for p in what.attachment.parameters)
        config = context.resident.config(context.training, k)
        engine = Engine(what.attachment.module, config, _optimizer(context, what))
        drawn = torch.rand(1)
        base = [m.clone() for m in engine.state(what.attachment.parameters).read()[0][MASTER]]
        train(context, what.attachment, engine, what.refresher, what.decay)
        masters = engine.state(what.attachment.parameters).read()[0][MASTER]
        engine.close()
        weights = {n: w for n, w in tiny.whole_weights(model).items() if not n.endswith(".values")}
        delta = what.delta
        mask = {} if delta is None else {p.name: i for p, i in zip(delta.places, delta.indices, strict=True)}
    same = tiny.same(before, tiny.whole_weights(model))
    return {"weights": weights, "masters": masters, "base": base, "drawn": drawn, "restored": same, "mask": mask}


def loss_of(model: torch.nn.Module, examples: list[Encoded]) -> Tensor:
    batch = collate(examples, 0)
    labels = batch.pop("labels")
    return answer_loss(model(**batch).logits, labels).mean()


def reference(sweep: Sweep, mask: dict[str, Tensor]) -> dict[str, Tensor]:
    """One process in float64, plain torch: AdamW of whole weights, whose gradients are masked, clipped, and pulled."""
    model, training = tiny.model(torch.float64), sweep.training
    model.requires_grad_(True)
    weights = dict(model.named_parameters())
    chosen = {n: torch.ones_like(w) for n, w in weights.items()}
    if mask:
        chosen = {n: torch.zeros_like(w) for n, w in weights.items()}
        for name, indices in mask.items():
            chosen[f"{name}.weight"].view(-1)[indices.long()] = 1
    base = {n: w.detach().clone() for n, w in weights.items()}
    fisher = {n: torch.zeros_like(w) for n, w in weights.items()}
    for one in kept_examples():
        for n, g in zip(weights, torch.autograd.grad(loss_of(model, [one]), list(weights.values())), strict=True):
            fisher[n] += g**2 / len(kept_examples())
    optimizer, stream = torch.optim.AdamW(weights.values(), weight_decay=0), batches(tiny.examples(), 8, SEED)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = learning_rate(training, step, STEPS)
        optimizer.zero_grad()
        loss_of(model, next(stream)).backward()
        for n, w in weights.items():
            w.grad.mul_(chosen[n])
        torch.nn.utils.clip_grad_norm_(weights.values(), training.clip_norm or 1e9)
        for n, w in weights.items():
            w.grad.add_(training.ewc * fisher[n] * (w.detach() - base[n]) * chosen[n])
        optimizer.step()
    return {n: w.detach().float() for n, w in weights.items()}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("method", list(METHODS))
def test_the_penalty_equals_a_dense_reference(ranks: Callable, method: str, stage: int, workers: int) -> None:
    sweep = the_sweep(stage, workers=workers)
    expected = without = {}
    for found in ranks(workers)(trained, sweep, METHODS[method]):
        expected = expected or reference(sweep, found["mask"])
        without = without or reference(the_sweep(stage, ewc=0), found["mask"])
        assert found["restored"]
        for name, weight in found["weights"].items():
            torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=1e-4)
    moved = max(float((expected[n] - w).abs().max()) for n, w in without.items())
    assert moved > 1e-3, "the penalty does something"


@pytest.mark.parametrize(("method", "stage"), [("mask", 1), ("full", 3)])
def test_an_offloaded_optimizer_is_given_it_too(ranks: Callable, method: str, stage: int) -> None:
    sweep = the_sweep(stage, workers=2)
    offload = {"offload_optimizer": True, "offload_parameters": stage == 3}
    offloaded = sweep.model_copy(update={"deepspeed": sweep.deepspeed.model_copy(update=offload)})
    found = ranks(2)(trained, offloaded, METHODS[method])[0]
    expected = reference(sweep, found["mask"])
    for name, weight in found["weights"].items():
        torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("method", list(METHODS))
def test_without_a_strength_all_is_bitwise_as_it_was(ranks: Callable, method: str, stage: int) -> None:
    """And with one, the random state in which the training begins."""
    found = [ranks(2)(trained, the_sweep(stage, ewc, workers=2), METHODS[method])[0] for ewc in (0.0, 1e-30, STRENGTH)]
    none, hardly, some = found
    assert torch.equal(none["drawn"], some["drawn"])
    assert tiny.same(none["weights"], hardly["weights"]), "a penalty of nothing changes nothing"
    assert not tiny.same(none["weights"], some["weights"])


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize(("method", "strength"), [("mask", 1e5), ("full", 3e3)])
def test_bfloat16_weights_are_held_by_their_float32_values(
    ranks: Callable, method: str, strength: float, stage: int
) -> None:
    """Of changes that are smaller than those that a weight of bfloat16 can show."""
    changes = []
    for ewc in (0.0, strength):
        sweep = the_sweep(stage, ewc, "bfloat16", workers=2, optimizer="sgd", schedule="constant", steps=12)
        found = ranks(2)(trained, sweep, METHODS[method])[0]
        changes.append(torch.cat([m - b for m, b in zip(found["masters"], found["base"], strict=True)]))
    free, held = (float(each.norm()) for each in changes)
    assert held < 0.97 * free


def both_fishers(stage: int) -> dict[str, Tensor]:
    """On each rank: of the matrices, the largest difference between the two ways, and that of one's repetition."""
    context = the_context(the_sweep(stage), MASK)
    candidates = find_candidates(context.resident.model)
    fisher, again = (fisher_of_weights(context, candidates) for _ in range(2))
    assert fisher is again, "a worker computes it once"
    whole = {c.name: torch.arange(c.numel) for c in candidates}
    some = fisher.at({name: indices[3:5] for name, indices in whole.items()})
    found = fisher.at(whole)
    assert all(torch.equal(some[name], found[name][3:5]) for name in whole)
    kept = fisher_of_all(context)
    names = [name for name, _ in context.resident.model.named_parameters()]
    stored = dict(zip(names, kept, strict=True))
    return {"matrices": found, "stored": {n: stored[f"{n}.weight"] for n in whole}, "biases": len(stored) - len(whole)}


@pytest.mark.parametrize("stage", [1, 3])
def test_both_ways_to_the_fisher_information_agree(ranks: Callable, stage: int) -> None:
    """That of matrices on their owners, and that of all parameters as they are stored."""
    here, there = ranks(2)(both_fishers, stage)
    assert here["biases"] > 0, "norms and embeddings"
    for name, values in here["matrices"].items():
        assert torch.equal(values, there["matrices"][name])
        parts = [here["stored"][name], there["stored"][name]]
        assert stage == 3 or torch.equal(*parts)
        whole = torch.cat(parts)[: values.numel()] if stage == 3 else parts[0]
        torch.testing.assert_close(whole, values, atol=1e-9, rtol=1e-5)
        assert float(values.max()) > 0


RESUMED: dict[str, dict[str, Any]] = {
    "gallop": {"density": 0.05, "selection_ratio": 0.5},
    "spiel": {"density": 0.05, "refresh_every": 2, "accumulate": 1},
    "lt_sft": {"density": 0.05, "warmup_steps": 2},
    "child_tuning": {},
}


def interrupted(stage: int, folder: Path, name: str) -> list[dict[str, Any]]:
    """On each rank: a run in one go, and one whose second half runs in workers that have just been started."""
    asked = test_run.sweep(stage).model_dump()
    asked["data"]["fisher"] = {"task": "first", "examples": 5}
    asked["training"] |= {"ewc": 100.0, "steps": 6}
    results = []
    for how, rungs in (("whole", (None,)), ("in two", (3, None))):
        reporter = Reporter(folder, f"{name} {how}")
        for until in rungs:
            resident = load_base_model(Sweep.model_validate(asked), load)
            object.__setattr__(resident, "held", Held(0))  # as after a kill: only what is on the disk is there
            base = measure_base(resident).accuracies
            chosen = test_run.configuration(resident, name, RESUMED[name])
            said = execute_until(until, resident, chosen, 0, base, reporter)
        assert not isinstance(said, Judged)
        results.append({key: value for key, value in said.items() if key not in test_run.TIMES})
    return results


@pytest.mark.parametrize(
    ("stage", "name"), [(1, "gallop"), (3, "gallop"), (1, "spiel"), (1, "lt_sft"), (3, "child_tuning")]
)
def test_a_resumed_run_is_bitwise_the_same(ranks: Callable, tmp_path: Path, stage: int, name: str) -> None:
    for whole, in_two in ranks(2)(interrupted, stage, tmp_path, name):
        assert {**in_two, "scores": None} == {**whole, "scores": None}
    assert tiny.same(*(load_file(tmp_path / f"{name} {how}.safetensors") for how in ("whole", "in two")))
