"""Elastic weight consolidation equals a slow dense reference in plain PyTorch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.optimizers import MASTER
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.encode import Encoded, answer_loss, collate
from gallop_ray.training.attach import attached
from gallop_ray.training.batches import batches
from gallop_ray.training.context import RunContext
from gallop_ray.training.engine import Engine
from gallop_ray.training.fisher import fisher_of_weights
from gallop_ray.training.loop import train
from gallop_ray.training.run import _optimizer
from gallop_ray.training.schedules import learning_rate
from tests.training import tiny

SEED, STEPS, STRENGTH = 3, 4, 3000.0
MASK = {"type": "magnitude", "density": 0.1, "scope": "per_matrix"}
METHODS: dict[str, dict[str, Any]] = {"mask": MASK, "full": {"type": "full"}}


def kept_examples() -> list[Encoded]:
    """Five: two ranks do not have equally many."""
    return tiny.examples(40)[-5:]


def the_sweep(stage: int, ewc: float = STRENGTH, dtype: str = "float32", **training: Any) -> Sweep:
    """Not validated: the tiny model's data have no tasks."""
    sweep = tiny.sweep(stage, dtype, steps=STEPS, learning_rate=3e-3, clip_norm=0.1, **training)
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
        train(context, what.attachment, engine, what.refresher, what.decay)
        masters = engine.state(what.attachment.parameters).read()[0][MASTER]
        engine.close()
        weights = {n: w for n, w in tiny.whole_weights(model).items() if not n.endswith(".values")}
        mask = {} if what.delta is None else dict(zip([p.name for p in what.delta.places], what.delta.indices))
    same = tiny.same(before, tiny.whole_weights(model))
    return {"weights": weights, "masters": masters, "drawn": drawn, "restored": same, "mask": mask}


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
