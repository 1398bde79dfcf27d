"""GraSP's passes: H g is what plain autograd and differences of gradients say, on any ranks, stage and family."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hvp, jacobian
from torch.func import functional_call
from torch.nn import functional

from gallop_ray.methods import make_method
from gallop_ray.sparse.candidates import find_candidates, places
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.spec.mask_methods import GraspSpec
from gallop_ray.tasks.encode import Encoded
from gallop_ray.training.context import NullReporter, Phases
from gallop_ray.training.curvature import accumulate_products
from gallop_ray.training.resident import LoadedModel
from gallop_ray.training.selection import select
from tests.families import FAMILIES, make_model
from tests.training import tiny
from tests.training.test_score_store import choose, resident

T, EXAMPLES = 2.0, 5
STEPS = {"opt": 1e-6}
"""Of the differences, where not 1e-5: small enough for no ReLU to change sides."""


def products(whole: LoadedModel, temperature: float = T) -> dict[str, Tensor]:
    """H g of this rank's matrices, of five examples in micro-batches of two."""
    owned = OwnedGradients(find_candidates(whole.model), "products")
    phases, examples = Phases(NullReporter(Path())), whole.train[:EXAMPLES]
    accumulate_products(whole, examples, whole.sweep.training, phases, owned, temperature)
    return {owned.candidates[i].name: owned.take(i) / EXAMPLES for i in owned.owned}


def mean_loss(model: Any, examples: list[Encoded], temperature: float) -> Tensor:
    """Written out again, one example at a time."""
    losses = []
    for example in examples:
        logits = model(input_ids=torch.tensor([example.input_ids])).logits[0, :-1] / temperature
        losses.append(functional.cross_entropy(logits, torch.tensor(example.labels[1:])))
    return torch.stack(losses).mean()


def reference(temperature: float = T) -> dict[str, Tensor]:
    """By torch's own products with Hessians, in float64."""
    model = tiny.model(torch.float64)
    model.set_attn_implementation("eager")
    found = {f"{c.name}.weight": c.weight.detach() for c in find_candidates(model)}

    def of(*weights: Tensor) -> Tensor:
        present = dict(zip(found, weights, strict=True))
        return mean_loss(lambda **kw: functional_call(model, present, (), kw), tiny.examples()[:EXAMPLES], temperature)

    at = tuple(found.values())
    h_g = hvp(of, at, jacobian(of, at))[1]
    return {name.removesuffix(".weight"): each for name, each in zip(found, h_g, strict=True)}


def error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference, relative to the largest entry of its matrix."""
    return max(float((h - expected[n]).abs().max() / expected[n].abs().max()) for n, h in found.items())


def tried(stage: int, dtype: str) -> dict[str, Tensor]:
    """On each rank, the products; the model, and torch's linear function, are as before."""
    whole = tiny.resident(tiny.sweep(stage, dtype))
    kept, linear = tiny.whole_weights(whole.model), functional.linear
    found = products(whole)
    assert functional.linear is linear
    assert tiny.same(tiny.whole_weights(whole.model), kept)
    assert not any(p.requires_grad or (stage == 3 and p.numel()) for p in whole.model.parameters())
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("world", [1, 2])
def test_products_are_those_of_a_dense_reference(ranks: Callable, world: int, stage: int, dtype: str) -> None:
    found = {n: h for each in ranks(world)(tried, stage, dtype) for n, h in each.items()}
    expected = reference()
    assert found.keys() == expected.keys()
    assert error(found, expected) < (1e-4 if dtype == "float32" else 0.1)
    assert error(found, reference(3.0)) > 0.2, "the temperature is not just a factor, and other losses are told apart"


def mask(stage: int) -> dict[str, list[int]]:
    """On each rank: what a run would train."""
    whole = tiny.resident(tiny.sweep(stage))
    context = tiny.context(whole, method={"type": "grasp", "density": 0.05, "selection_ratio": 0.5})
    method: Any = make_method(context.configuration.method)
    found = select(context, find_candidates(whole.model), method).mask
    return {name: indices.tolist() for name, indices in found.indices.items()}


def test_masks_are_the_same_on_any_ranks_and_stage(ranks: Callable) -> None:
    first, *others = [each for world in (1, 2) for stage in (1, 2, 3) for each in ranks(world)(mask, stage)]
    assert sum(map(len, first.values())) > 1000
    assert all(other == first for other in others)


def from_a_store(folder: Path | None) -> list[tuple[dict[str, list[int]], str, int]]:
    """On each rank, one after another: masks of two temperatures, and of two ratios, and where they came from."""
    grasp = {"type": "grasp", "density": 0.05, "selection_ratio": 0.25}
    colder = {**grasp, "name": "colder", "temperature": T}
    whole = resident(folder, [grasp, colder], {"method.selection_ratio": {"choice": [0.25, 0.5]}})
    return [choose(whole, each) for each in (grasp, colder, {**grasp, "selection_ratio": 0.5}, grasp)]


def test_a_store_keeps_temperatures_apart_and_continues_no_sums(ranks: Callable, tmp_path: Path) -> None:
    (cold,), (stored,) = ranks(1)(from_a_store, None), ranks(1)(from_a_store, tmp_path)
    assert [source for _, source, _ in stored] == ["computed", "computed", "computed", "store"]
    assert [found for found, *_ in stored] == [found for found, *_ in cold]
    assert len({str(found) for found, *_ in stored}) == 3


def alone(model: Any, **training: Any) -> LoadedModel:
    """A resident without ranks."""
    whole = LoadedModel(tiny.sweep(0, **training), model, SimpleNamespace(pad_token_id=0), "", 0, {}, tiny.examples())
    return replace(whole, train=[replace(e, labels=e.labels[:1] + e.input_ids[1:]) for e in whole.train])


def by_differences(whole: LoadedModel, step: float) -> dict[str, Tensor]:
    """(g(w + e g) - g(w - e g)) / 2 e."""
    weights = {c.name: c.weight for c in places(find_candidates(whole.model))}
    for each in weights.values():
        each.requires_grad_(True)

    def g() -> list[Tensor]:
        loss = mean_loss(whole.model, whole.train[:EXAMPLES], T)
        return [each.clone() for each in torch.autograd.grad(loss, list(weights.values()))]

    at, gradients = [w.detach().clone() for w in weights.values()], []
    direction = g()
    step /= max(float(d.abs().max()) for d in direction)
    for sign in (1, -1):
        for w, value, d in zip(weights.values(), at, direction, strict=True):
            w.data = value + sign * step * d
        gradients.append(g())
    return {n: (a - b) / (2 * step) for n, a, b in zip(weights, *gradients, strict=True)}


@pytest.mark.parametrize("family", FAMILIES)
def test_of_every_family_they_are_differences_of_gradients(family: str) -> None:
    exact: Any = make_model(family, experts_implementation="eager").double().eval().requires_grad_(False)
    found = products(alone(exact))
    fast: Any = make_model(family).eval().requires_grad_(False)
    assert error(products(alone(fast)), found) < 1e-3, "by the kernels of runs"
    expected = by_differences(alone(exact), STEPS.get(family, 1e-5))
    of_experts = {c.name: c.of(expected[c.place]) for c in find_candidates(exact)}
    assert error(found, of_experts) < 2e-3, "norms compute in float32"


def test_attention_without_a_second_derivative_is_refused() -> None:
    model = tiny.model()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="grasp needs attention by eager or sdpa, not flash_attention_2"):
        products(alone(model))


def test_the_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        GraspSpec(temperature=0.0)
