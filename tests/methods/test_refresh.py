"""Masks that are chosen anew equal a slow dense reference, refresh after refresh, and so do the trained weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gallop_ray.methods import METHODS, MatrixState
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.encode import answer_loss, collate
from gallop_ray.training.engine import Engine
from gallop_ray.training.loop import TrainState, batches, learning_rate, train
from gallop_ray.training.optimizers import make_optimizer
from gallop_ray.training.refresh import Refresher
from gallop_ray.training.selection import select
from tests.training import tiny

SEED, STEPS, DECAY = 3, 12, 0.05
METHODS_HERE: dict[str, dict[str, Any]] = {
    "lift": {"density": {"lora_rank": 2}, "rank": 4, "refresh_every": 3},
    "spiel": {"density": 0.04, "refresh_every": 4, "accumulate": 2, "initial_rate": 0.5, "delta_decay": DECAY},
    "sara": {"density": 0.04, "refresh_at": 0.5},
}
Masks = dict[str, list[int]]


def the_sweep(stage: int) -> Sweep:
    return tiny.sweep(stage, steps=STEPS, weight_decay=0.1, clip_norm=None, checkpoint_steps=1)


def refreshed(stage: int, name: str) -> dict[str, Any]:
    """On each rank: the first mask, those after each step that could be kept, and the trained weights."""
    resident = tiny.resident(the_sweep(stage))
    context = tiny.context(resident, SEED, method={"type": name, **METHODS_HERE[name]})
    method: Any = METHODS[name](context.configuration.method)
    candidates = find_candidates(resident.model)
    before = tiny.whole_weights(resident.model)
    delta = SparseDelta(resident.model, candidates, select(context, candidates, method).mask)
    names = [c.name for c in delta.places]
    masks: dict[int, Masks] = {}

    def note(state: TrainState) -> None:
        masks[state.step] = dict(zip(names, (i.tolist() for i in delta.indices), strict=True))

    note(TrainState(STEPS))
    trained = sum(i.numel() for i in delta.indices)
    optimizer = make_optimizer(context.training, delta.parameters)
    engine = Engine(delta.module, resident.config(context.training, trained), optimizer)
    train(context, delta, engine, Refresher(method, delta, SEED), keep=note)
    engine.close()
    after = tiny.whole_weights(resident.model)
    delta.detach()
    restored = tiny.same({n: w for n, w in tiny.whole_weights(resident.model).items() if n in before}, before)
    return {"masks": masks, "weights": {n: after[f"{n}.weight"] for n in names}, "restored": restored}


class Dense:
    """One process, plain torch: AdamW on whole matrices, with masks of the same shape."""

    def __init__(self, name: str, first: Masks) -> None:
        self.options = METHODS_HERE[name]
        self.model, self.sweep = tiny.model(), the_sweep(0)
        self.weights = {c.name: c.weight for c in find_candidates(self.model)}
        self.base = {n: w.clone() for n, w in self.weights.items()}
        self.masks = {n: self.mask(n, first[n]) for n in first}
        self.moments = {n: [torch.zeros_like(w), torch.zeros_like(w)] for n, w in self.weights.items()}
        self.grown = {n: torch.zeros_like(w) for n, w in self.weights.items()}
        self.stream = batches(tiny.examples(), self.sweep.training.batch_size, SEED)

    def mask(self, name: str, indices: list[int]) -> Tensor:
        chosen = torch.zeros(self.weights[name].numel(), dtype=torch.bool)
        chosen[indices] = True
        return chosen.view(self.weights[name].shape)

    def gradients(self) -> dict[str, Tensor]:
        for weight in self.weights.values():
            weight.requires_grad_(True)
        batch = collate(next(self.stream), 0)
        labels = batch.pop("labels")
        loss = answer_loss(self.model(**batch).logits, labels).mean()
        found = torch.autograd.grad(loss, list(self.weights.values()))
        self.model.requires_grad_(False)
        return dict(zip(self.weights, found, strict=True))

    def step(self, number: int, accumulate: bool) -> None:
        gradients = self.gradients()
        rate = learning_rate(self.sweep.training, number - 1, STEPS)
        for name, gradient in gradients.items():
            weight, mask, (first, second) = self.weights[name], self.masks[name], self.moments[name]
            if accumulate:
                self.grown[name] += gradient
            pulled = gradient + self.options.get("delta_decay", 0.0) * (weight - self.base[name])
            first.mul_(0.9).add_(0.1 * pulled * mask)
            second.mul_(0.999).add_(0.001 * (pulled * mask) ** 2)
            update = first / (1 - 0.9**number) / ((second / (1 - 0.999**number)).sqrt() + 1e-8)
            weight -= rate * (update + 0.1 * weight) * mask

    def refresh(self, name: str, choose: Callable[[str], Tensor], restore: bool) -> None:
        for matrix, weight in self.weights.items():
            old, new = self.masks[matrix], choose(matrix)
            assert old.sum() == new.sum()
            if restore:
                weight.copy_(torch.where(old & ~new, self.base[matrix], weight))
            for moment in self.moments[matrix]:
                moment.mul_(old & new)
            self.masks[matrix] = new
            self.grown[matrix].zero_()

    def top(self, matrix: str, scores: Tensor, k: int) -> Tensor:
        order = scores.double().view(-1).sort(descending=True, stable=True).indices[:k]
        return self.mask(matrix, order.tolist())

    def principal(self, matrix: str) -> Tensor:
        u, s, vh = torch.linalg.svd(self.weights[matrix].double(), full_matrices=False)
        return self.top(matrix, ((u[:, :4] * s[:4]) @ vh[:4]).abs(), int(self.masks[matrix].sum()))

    def smallest(self, matrix: str) -> Tensor:
        return self.top(matrix, -self.weights[matrix].abs(), int(self.masks[matrix].sum()))

    def regrown(self, matrix: str, number: int) -> Tensor:
        mask = self.masks[matrix]
        k = int(mask.sum())
        n = int(0.5 * (1 - number / STEPS) * k)
        change = (self.weights[matrix] - self.base[matrix]).abs().masked_fill(~mask, -1)
        growth = self.grown[matrix].abs().masked_fill(mask, -1)
        return self.top(matrix, change, k - n) | self.top(matrix, growth, n)


def reference(name: str, first: Masks) -> tuple[dict[int, Masks], dict[str, Tensor]]:
    dense, masks = Dense(name, first), {}
    for number in range(1, STEPS + 1):
        dense.step(number, accumulate=name == "spiel" and number in (3, 4, 7, 8))
        if name == "lift" and number in (3, 6, 9):
            dense.refresh(name, dense.principal, restore=False)
        if name == "sara" and number == 6:
            dense.refresh(name, dense.smallest, restore=False)
        if name == "spiel" and number in (4, 8):
            dense.refresh(name, lambda matrix, number=number: dense.regrown(matrix, number), restore=True)
        masks[number] = {n: m.view(-1).nonzero().view(-1).tolist() for n, m in dense.masks.items()}
    return masks, dense.weights


def changes_in_bfloat16(stage: int) -> list[Tensor]:
    """What SpIEL is told that has changed, in training too slow for bfloat16 weights."""
    resident = tiny.resident(tiny.sweep(stage, "bfloat16", steps=4, learning_rate=1e-7))
    context = tiny.context(resident, SEED, method={"type": "spiel", **METHODS_HERE["spiel"], "refresh_every": 2})
    method: Any = METHODS["spiel"](context.configuration.method)
    candidates = find_candidates(resident.model)
    delta = SparseDelta(resident.model, candidates, select(context, candidates, method).mask)
    told: list[Tensor] = []
    choose = method.refresh

    def refresh(state: MatrixState) -> Tensor:
        told.append(state.delta)
        return choose(state)

    method.refresh = refresh
    optimizer = make_optimizer(context.training, delta.parameters)
    engine = Engine(delta.module, resident.config(context.training, 1), optimizer)
    train(context, delta, engine, Refresher(method, delta, SEED))
    engine.close()
    delta.detach()
    return told


@pytest.mark.parametrize("stage", [1, 3])
def test_what_bfloat16_rounds_away_decides_all_the_same(ranks: Callable, stage: int) -> None:
    for told in ranks(2)(changes_in_bfloat16, stage):
        whole = torch.cat(told)
        assert (whole != 0).float().mean() > 0.9
        assert whole.abs().max() < 1e-5, "far less than the weights can show"


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("name", METHODS_HERE)
def test_refreshes_equal_a_dense_reference(ranks: Callable, name: str, stage: int) -> None:
    found, other = ranks(2)(refreshed, stage, name)
    assert found["masks"] == other["masks"], "the ranks agree"
    assert found["restored"]
    masks, weights = reference(name, found["masks"].pop(0))
    assert found["masks"].keys() >= {4, 6, 8, 10}
    for step, mask in found["masks"].items():
        assert mask == masks[step], f"after step {step}"
    assert len({str(mask) for mask in masks.values()}) == {"lift": 4, "spiel": 3, "sara": 2}[name]
    for matrix, weight in found["weights"].items():
        torch.testing.assert_close(weight, weights[matrix], atol=2e-5, rtol=1e-4)
