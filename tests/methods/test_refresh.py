"""Masks that are chosen anew equal a slow dense reference, refresh after refresh, and so do the trained weights."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from gallop_ray.methods import MatrixState, RefreshedMethod, make_method
from gallop_ray.methods.refresh import Refresher
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.optimizers import Decays, EntryAdamW, moved
from gallop_ray.spec.mask_methods import SpielSpec
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.encode import Encoded, answer_loss, collate
from gallop_ray.training.attach import Attached
from gallop_ray.training.batches import batches
from gallop_ray.training.engine import Engine
from gallop_ray.training.fisher import fisher_of_weights, penalty_of_delta
from gallop_ray.training.loop import TrainState, learning_rate, train
from gallop_ray.training.optimizers import decay_to_base, make_optimizer
from gallop_ray.training.run import _optimizer
from gallop_ray.training.selection import select
from tests.training import tiny

SEED, STEPS, DECAY, EWC = 3, 12, 0.05, 300.0
METHODS_HERE: dict[str, dict[str, Any]] = {
    "lift": {"density": {"lora_rank": 2}, "rank": 4, "refresh_every": 3},
    "spiel": {"density": 0.04, "refresh_every": 4, "accumulate": 2, "initial_rate": 0.5, "delta_decay": DECAY},
    "spiel ma": {
        **{"variant": "ma", "density": 0.04, "refresh_every": 4, "accumulate": 2, "initial_rate": 0.5},
        "delta_decay": DECAY,
    },
    "sara": {"density": 0.04, "refresh_at": 0.5},
    "gasdu": {"density": 0.04, "refresh_every": 3},
    "magnitude": {"density": 0.04},
}
REFRESHED = ("lift", "spiel", "spiel ma", "sara", "gasdu")
OF_ONE_AGE = ("lift",)  # all entries count the run's steps, as in its paper
Masks = dict[str, list[int]]


def the_sweep(stage: int, decay_to: str = "zero") -> Sweep:
    return tiny.sweep(stage, steps=STEPS, weight_decay=0.1, decay_to=decay_to, clip_norm=None, checkpoint_steps=1)


def kept_examples() -> list[Encoded]:
    """What elastic weight consolidation keeps."""
    return tiny.examples(40)[-5:]


def refreshed(stage: int, name: str, decay_to: str = "zero", ewc: float = 0.0) -> dict[str, Any]:
    """On each rank: the first mask, those after each step that could be kept, and the trained weights."""
    resident = replace(tiny.resident(the_sweep(stage, decay_to)), fisher_examples=kept_examples())
    context = tiny.context(resident, SEED, method={"type": name.split()[0], **METHODS_HERE[name]}, ewc=ewc)
    method: Any = make_method(context.configuration.method)
    candidates = find_candidates(resident.model)
    before = tiny.whole_weights(resident.model)
    fisher = fisher_of_weights(context, candidates)
    delta = SparseDelta(resident.model, candidates, select(context, candidates, method).mask)
    names = [c.name for c in delta.places]
    masks: dict[int, Masks] = {}

    def note(state: TrainState) -> None:
        masks[state.step] = dict(zip(names, (i.tolist() for i in delta.indices), strict=True))

    note(TrainState(STEPS))
    trained = sum(i.numel() for i in delta.indices)
    optimizer = _optimizer(context, Attached(delta))
    engine = Engine(delta.module, resident.config(context.training, trained), optimizer)
    refresher = Refresher(method, delta, SEED) if isinstance(method, RefreshedMethod) else None
    pulls = Decays.of(decay_to_base(method, delta, context.training), penalty_of_delta(context, delta, fisher))
    train(context, delta, engine, refresher, pulls, keep=note)
    engine.close()
    after = tiny.whole_weights(resident.model)
    delta.detach()
    restored = tiny.same({n: w for n, w in tiny.whole_weights(resident.model).items() if n in before}, before)
    return {"masks": masks, "weights": {n: after[f"{n}.weight"] for n in names}, "restored": restored}


class Dense:
    """One process, plain torch: AdamW on whole matrices, with masks of the same shape."""

    def __init__(self, name: str, first: Masks, decay_to: str, ewc: float) -> None:
        self.decay_to, self.ewc = decay_to, ewc
        self.options = METHODS_HERE[name]
        self.model, self.sweep = tiny.model(), the_sweep(0)
        self.weights = {c.name: c.weight for c in find_candidates(self.model)}
        self.base = {n: w.clone() for n, w in self.weights.items()}
        self.masks = {n: self.mask(n, first[n]) for n in first}
        self.moments = {n: [torch.zeros_like(w), torch.zeros_like(w)] for n, w in self.weights.items()}
        self.ages = {n: torch.zeros_like(w) for n, w in self.weights.items()}
        self.of_one_age = name in OF_ONE_AGE
        self.grown = {n: torch.zeros_like(w) for n, w in self.weights.items()}
        self.sides = {n: [torch.zeros(size).double() for size in w.shape] for n, w in self.weights.items()}
        self.stream = batches(tiny.examples(), self.sweep.training.batch_size, SEED)
        self.fisher = {n: torch.zeros_like(w) for n, w in self.weights.items()}
        for one in kept_examples() if ewc else ():
            for matrix, gradient in self.gradients([one]).items():
                self.fisher[matrix] += gradient**2 / len(kept_examples())

    def mask(self, name: str, indices: list[int]) -> Tensor:
        chosen = torch.zeros(self.weights[name].numel(), dtype=torch.bool)
        chosen[indices] = True
        return chosen.view(self.weights[name].shape)

    def gradients(self, examples: list[Encoded]) -> dict[str, Tensor]:
        for weight in self.weights.values():
            weight.requires_grad_(True)
        batch = collate(examples, 0)
        labels = batch.pop("labels")
        loss = answer_loss(self.model(**batch).logits, labels).mean()
        found = torch.autograd.grad(loss, list(self.weights.values()))
        self.model.requires_grad_(False)
        return dict(zip(self.weights, found, strict=True))

    def step(self, number: int, accumulate: bool) -> None:
        gradients = self.gradients(next(self.stream))
        rate = learning_rate(self.sweep.training, number - 1, STEPS)
        for name, gradient in gradients.items():
            weight, mask, (first, second) = self.weights[name], self.masks[name], self.moments[name]
            if accumulate:
                self.grown[name] += gradient
            rows, columns = self.sides[name]
            least = (torch.minimum(rows[:, None], columns) + gradient.double() ** 2) * mask
            self.sides[name] = [torch.maximum(rows, least.amax(1)), torch.maximum(columns, least.amax(0))]
            to_base = self.options.get("delta_decay", 0.0) + 0.1 * (self.decay_to == "base")
            weight -= rate * to_base * (weight - self.base[name])
            gradient = gradient + self.ewc * self.fisher[name] * (weight - self.base[name])
            first.mul_(0.9).add_(0.1 * gradient * mask)
            second.mul_(0.999).add_(0.001 * (gradient * mask) ** 2)
            age = torch.full_like(weight, number) if self.of_one_age else self.ages[name].add_(mask)
            update = first / (1 - 0.9**age) / ((second / (1 - 0.999**age)).sqrt() + 1e-8)
            weight *= 1 - rate * 0.1 * (self.decay_to == "zero") * mask
            weight -= torch.where(mask, rate * update, 0)

    def refresh(self, name: str, choose: Callable[[str], Tensor], restore: bool) -> None:
        for matrix, weight in self.weights.items():
            old, new = self.masks[matrix], choose(matrix)
            assert old.sum() == new.sum()
            if restore:
                weight.copy_(torch.where(old & ~new, self.base[matrix], weight))
            for moment in (*self.moments[matrix], self.ages[matrix]):
                moment.mul_(old & new)
            self.masks[matrix] = new
            self.grown[matrix].zero_()

    def top(self, matrix: str, scores: Tensor, k: int) -> Tensor:
        order = scores.double().view(-1).sort(descending=True, stable=True).indices[:k]
        return self.mask(matrix, order.tolist())

    def principal(self, matrix: str) -> Tensor:
        u, s, vh = torch.linalg.svd(self.weights[matrix].double(), full_matrices=False)
        return self.top(matrix, ((u[:, :4] * s[:4]) @ vh[:4]).abs(), int(self.masks[matrix].sum()))

    def pulled(self, matrix: str) -> Tensor:
        return self.top(matrix, self.grown[matrix].abs(), int(self.masks[matrix].sum()))

    def smallest(self, matrix: str) -> Tensor:
        return self.top(matrix, -self.weights[matrix].abs(), int(self.masks[matrix].sum()))

    def regrown(self, matrix: str, number: int, by_sides: bool = False) -> Tensor:
        mask = self.masks[matrix]
        k = int(mask.sum())
        n = k if number == 2 else int(0.5 * (1 - number / STEPS) * k)
        change = (self.weights[matrix] - self.base[matrix]).abs().masked_fill(~mask, -1)
        kept = self.top(matrix, change, k - n)
        if by_sides:
            return kept | self.top(matrix, torch.outer(*self.sides[matrix]).masked_fill(mask, -1), n)
        return kept | self.top(matrix, self.grown[matrix].abs().masked_fill(kept, -1), n)


def reference(
    name: str, first: Masks, decay_to: str = "zero", ewc: float = 0.0
) -> tuple[dict[int, Masks], dict[str, Tensor]]:
    dense, masks = Dense(name, first, decay_to, ewc), {}
    for number in range(1, STEPS + 1):
        dense.step(number, accumulate=number in {"spiel": (1, 2, 5, 6, 9, 10), "gasdu": (3, 6, 9)}.get(name, ()))
        if name == "lift" and number in (3, 6, 9):
            dense.refresh(name, dense.principal, restore=False)
        if name == "gasdu" and number in (3, 6, 9):
            dense.refresh(name, dense.pulled, restore=False)
        if name == "sara" and number == 6:
            dense.refresh(name, dense.smallest, restore=False)
        if name in ("spiel", "spiel ma") and number in (2, 6, 10):
            regrown = partial(dense.regrown, number=number, by_sides=name == "spiel ma")
            dense.refresh(name, regrown, restore=True)
        masks[number] = {n: m.view(-1).nonzero().view(-1).tolist() for n, m in dense.masks.items()}
    return masks, dense.weights


def changes_in_bfloat16(stage: int) -> list[Tensor]:
    """What SpIEL is told that has changed, in training too slow for bfloat16 weights."""
    resident = tiny.resident(tiny.sweep(stage, "bfloat16", steps=4, learning_rate=1e-7))
    context = tiny.context(resident, SEED, method={"type": "spiel", **METHODS_HERE["spiel"], "refresh_every": 2})
    method: Any = make_method(context.configuration.method)
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
@pytest.mark.parametrize("name", REFRESHED)
def test_refreshes_equal_a_dense_reference(ranks: Callable, name: str, stage: int) -> None:
    found, other = ranks(2)(refreshed, stage, name)
    assert found["masks"] == other["masks"], "the ranks agree"
    assert found["restored"]
    masks, weights = reference(name, found["masks"].pop(0))
    assert found["masks"].keys() >= {4, 6, 8, 10}
    for step, mask in found["masks"].items():
        assert mask == masks[step], f"after step {step}"
    assert (
        len({str(mask) for mask in masks.values()})
        == {"lift": 4, "spiel": 4, "spiel ma": 4, "sara": 2, "gasdu": 4}[name]
    )
    for matrix, weight in found["weights"].items():
        torch.testing.assert_close(weight, weights[matrix], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("stage", [1, 3])
def test_weight_decay_to_the_base_equals_a_dense_reference(ranks: Callable, stage: int) -> None:
    found, _ = ranks(2)(refreshed, stage, "magnitude", "base")
    weights, to_zero = (reference("magnitude", found["masks"][0], where)[1] for where in ("base", "zero"))
    for matrix, weight in found["weights"].items():
        torch.testing.assert_close(weight, weights[matrix], atol=2e-5, rtol=1e-4)
    assert any(not torch.allclose(w, to_zero[n], atol=2e-5, rtol=1e-4) for n, w in found["weights"].items())


@pytest.mark.parametrize(("name", "stage"), [("spiel", 1), ("gasdu", 3), ("lift", 1)])
def test_weights_are_held_for_entries_that_are_chosen_later_too(ranks: Callable, name: str, stage: int) -> None:
    found, _ = ranks(2)(refreshed, stage, name, "zero", EWC)
    first = found["masks"].pop(0)
    (masks, weights), (_, free) = (reference(name, first, "zero", ewc) for ewc in (EWC, 0.0))
    assert len({str(mask) for mask in found["masks"].values()}) > 1
    assert max(float((weights[n] - w).abs().max()) for n, w in free.items()) > 1e-3, "the penalty does something"
    for step, mask in found["masks"].items():
        assert mask == masks[step], f"after step {step}"
    for matrix, weight in found["weights"].items():
        torch.testing.assert_close(weight, weights[matrix], atol=2e-5, rtol=1e-4)


def largest_steps(optimizer: torch.optim.Optimizer, values: torch.nn.Parameter, begun: int) -> list[float]:
    """Steps over the learning rate of two entries with steady gradients, the second chosen after `begun` steps."""
    old, new, sizes = torch.tensor([3, 5]), torch.tensor([3, 8]), []
    for step in range(begun + 50):
        if step == begun:
            state = {key: [v] for key, v in optimizer.state[values].items() if key != "step"}
            optimizer.state[values] |= {k: v[0] for k, v in moved(state, [old], [new], [values.detach()]).items()}
        before, values.grad = values.detach().clone(), torch.tensor([0.1, 0.1])
        optimizer.step()
        if step >= begun:
            sizes.append(float((values.detach() - before)[1].abs()) / optimizer.param_groups[0]["lr"])
    return sizes


def test_no_newcomer_steps_further_than_the_learning_rate() -> None:
    steps = {}
    for ages in (True, False):
        values = torch.nn.Parameter(torch.zeros(2))
        optimizer = make_optimizer(tiny.sweep(learning_rate=1e-3).training, [values], entry_ages=ages)
        steps[ages] = largest_steps(optimizer, values, begun=1000)
    assert max(steps[False]) > 4, "with one count of steps for all"
    assert max(steps[True]) == pytest.approx(1, abs=1e-3)


def test_where_all_entries_are_of_one_age_it_is_torch_s_adamw() -> None:
    options = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.8, 0.99), "eps": 1e-6}
    start, generator = torch.linspace(-1, 1, 40), torch.Generator().manual_seed(0)
    gradients, ends = torch.randn(30, 40, generator=generator), []
    for kind in (EntryAdamW, torch.optim.AdamW):
        values = torch.nn.Parameter(start.clone())
        optimizer = kind([values], **options)
        for gradient in gradients:
            values.grad = gradient.clone()
            optimizer.step()
        ends.append(values.detach())
    torch.testing.assert_close(*ends, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("steps", [30, 3])
def test_spiel_first_replaces_all_and_then_after_each_interval(steps: int) -> None:
    method: Any = make_method(SpielSpec(refresh_every=10, accumulate=3, initial_rate=0.5))
    numbers = range(1, steps + 1)
    expected = [3, 13, 23] if steps == 30 else []
    assert [s for s in numbers if method.refreshes_after(s, steps)] == expected
    assert [s for s in numbers if method.accumulates_in(s, steps)] == [s for e in expected for s in (e - 2, e - 1, e)]
    if not expected:
        return
    gradient = torch.arange(20.0).view(4, 5)
    old = torch.tensor([0, 1, 17, 19])

    def chosen(step: int, smallest: float = 1.0) -> list[int]:
        delta, generator = torch.tensor([5.0, 4.0, smallest, 1.5]), torch.Generator()
        state = MatrixState(torch.zeros(4, 5), gradient.clone(), old, delta, step, steps, generator)
        return method.refresh(state).tolist()

    assert chosen(3) == [16, 17, 18, 19], "none is kept for its own sake"
    assert chosen(29) == old.tolist(), "nearly at the end none is given up"
    assert chosen(13) == [0, 1, 18, 19], "one goes, and the one with the largest gradient comes"
    assert chosen(13, smallest=2.0) == [0, 1, 17, 19], "one is given up, and has itself the largest gradient"
