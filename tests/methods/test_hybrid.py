"""A hybrid equals a dense reference: AdamW on the chosen entries and on LoRA's matrices, in plain torch."""

from collections.abc import Callable, Sequence
from typing import Any

import peft
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from gallop_ray.methods import make_method
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.topk import largest
from gallop_ray.spec.other_methods import HybridSpec, RosaSpec
from gallop_ray.spec.peft_tuners import BESIDE
from gallop_ray.tasks.encode import answer_loss, collate
from gallop_ray.training.attach import attached
from gallop_ray.training.batches import batches
from gallop_ray.training.engine import Engine
from gallop_ray.training.loop import learning_rate, train
from gallop_ray.training.optimizers import make_optimizer
from gallop_ray.training.selection import select
from gallop_ray.training.warm_up import changes_of_full_training
from tests.methods.test_contract import TUNERS
from tests.training import tiny

SEED, STEPS, WARM = 3, 6, 3
PARTS = [{"type": "magnitude", "density": 0.04}, {"type": "lora", "rank": 2}]
METHODS: dict[str, dict[str, Any]] = {
    "hybrid": {"parts": PARTS},
    "rosa": {"density": None, "sparse_density": 0.04, "rank": 2, "warmup_steps": WARM},
}


def trained(name: str, stage: int) -> dict[str, Any]:
    """On each rank: the mask, the trained weights and LoRA's matrices by name."""
    resident = tiny.resident(tiny.sweep(stage, steps=STEPS, clip_norm=None, weight_decay=0.0))
    before = tiny.whole_weights(resident.model)
    context = tiny.context(resident, SEED, method={"type": name, **METHODS[name]})
    with attached(context) as what:
        attachment: Any = what.attachment
        lora = {n: p for n, p in attachment.module.named_parameters() if "lora_" in n}
        start = {n: w.float() for n, w in tiny.whole_weights(attachment.module).items() if n in lora}
        optimizer = make_optimizer(context.training, attachment.parameters)
        engine = Engine(attachment.module, resident.config(context.training, 1000, context.micro_steps), optimizer)
        train(context, attachment, engine)
        attachment.finalize()
        weights = {n.replace(".base_layer", ""): w for n, w in tiny.whole_weights(attachment.module).items()}
        masks = {c.name: i.tolist() for c, i in zip(what.delta.places, what.delta.indices, strict=True)}  # type: ignore[union-attr]
        engine.keep_whole()
        engine.close()
    assert tiny.same(tiny.whole_weights(resident.model), before), "the base is restored"
    return {"masks": masks, "weights": weights, "start": start}


def gradients(model: Any, batch: Any, parameters: list[Tensor]) -> list[Tensor]:
    inputs = collate(batch, 0)
    labels = inputs.pop("labels")
    loss = answer_loss(model(**inputs).logits, labels).mean()
    return list(torch.autograd.grad(loss, parameters))


def adamw(model: Any, masks: dict[str, Tensor], start: dict[str, Tensor], steps: int) -> Any:
    """Plain torch: AdamW on LoRA and, where there are masks, on whole weights with masked gradients."""
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=16, target_modules=sorted(names())))
    lora = {n: p for n, p in wrapped.named_parameters() if "lora_" in n}
    for name, parameter in lora.items():
        parameter.data.copy_(start[name])
    dense = {n: wrapped.get_parameter(f"base_model.model.{n}.base_layer.weight") for n in masks}
    for weight in dense.values():
        weight.requires_grad_(True)
    parameters = [*dense.values(), *lora.values()]
    sweep = tiny.sweep(0, steps=steps, clip_norm=None, weight_decay=0.0)
    optimizer = torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)
    stream = batches(tiny.examples(), sweep.training.batch_size, SEED)
    for step in range(steps):
        found = gradients(wrapped, next(stream), parameters)
        for parameter, gradient, mask in zip(parameters, found, [*masks.values(), *[None] * len(lora)], strict=True):
            parameter.grad = gradient if mask is None else gradient * mask
        optimizer.param_groups[0]["lr"] = learning_rate(sweep.training, step, steps)
        optimizer.step()
    for weight in dense.values():
        weight.requires_grad_(False)
    return wrapped


def names() -> list[str]:
    return [c.name for c in find_candidates(tiny.model())]


def expected_masks(name: str, start: dict[str, Tensor]) -> dict[str, list[int]]:
    model = tiny.model()
    weights = {c.name: c.weight for c in find_candidates(model)}
    k = round(0.04 * sum(p.numel() for p in model.parameters()))
    if name == "hybrid":
        flat = torch.cat([w.abs().view(-1) for w in weights.values()])
        chosen, before, masks = largest(flat, k), 0, {}
        for matrix, weight in weights.items():
            mine = chosen[(chosen >= before) & (chosen < before + weight.numel())] - before
            masks[matrix], before = mine.tolist(), before + weight.numel()
        return {n: m for n, m in masks.items() if m}
    wrapped = adamw(model, {}, start, WARM)
    dense = {n: wrapped.get_parameter(f"base_model.model.{n}.base_layer.weight").requires_grad_(True) for n in weights}
    first = next(batches(tiny.examples(), 8, SEED))
    scores = dict(zip(dense, gradients(wrapped, first, list(dense.values())), strict=True))
    total, before, masks = sum(w.numel() for w in weights.values()), 0, {}
    for matrix, weight in weights.items():
        share = k * (before + weight.numel()) // total - k * before // total
        masks[matrix], before = largest(scores[matrix].square(), share).tolist(), before + weight.numel()
    return masks


@pytest.mark.parametrize("stage", [1, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", METHODS)
def test_a_hybrid_equals_a_dense_reference(ranks: Callable, name: str, stage: int) -> None:
    found, other = ranks(2)(trained, name, stage)
    assert found["masks"] == other["masks"], "the ranks agree"
    expected = expected_masks(name, found["start"])
    assert {n: len(i) for n, i in found["masks"].items()} == {n: len(i) for n, i in expected.items()}
    # RoSA's gradients follow some training, whose last bits differ from the reference's.
    same = sum(len({*indices} & {*expected[n]}) for n, indices in found["masks"].items())
    assert same >= (0.99 if name == "rosa" else 1) * sum(map(len, expected.values()))
    masks = {}
    for matrix, indices in found["masks"].items():
        masks[matrix] = torch.zeros(tiny.model().get_submodule(matrix).weight.shape)
        masks[matrix].view(-1)[indices] = 1
    wrapped = adamw(tiny.model(), masks, found["start"], STEPS)
    for parameter_name, value in wrapped.named_parameters():
        mine = found["weights"][parameter_name.replace(".base_layer", "")]
        torch.testing.assert_close(mine, value.detach(), atol=3e-5, rtol=1e-3)


def test_a_shared_budget_leaves_the_mask_what_the_tuner_does_not_take() -> None:
    model = tiny.model()
    total = sum(p.numel() for p in model.parameters())
    for spec in (HybridSpec(parts=(PARTS[0], PARTS[1]), density=0.2), RosaSpec(density=0.2, rank=2)):
        attachment: Any = make_method(spec).attach(model)  # type: ignore[union-attr]
        assert sum(p.numel() for p in attachment.parameters) == round(0.2 * total)
        attachment.detach()
    with pytest.raises(ValueError, match="lora alone has"):
        make_method(HybridSpec(parts=(PARTS[0], PARTS[1]), density=0.01)).attach(model)  # type: ignore[union-attr]


@pytest.mark.parametrize("tuner", [*BESIDE, "dora"])
def test_beside_a_tuner_the_entries_get_the_gradient_of_the_weight(tuner: str) -> None:
    options = {} if tuner == "dora" else {"tuner": tuner, "options": TUNERS[tuner]}
    part = {"type": "dora" if tuner == "dora" else "peft", **options}
    batch = tiny.examples()[:4]
    torch.manual_seed(1)
    attachment: Any = make_method(HybridSpec(parts=(PARTS[0], part))).attach(tiny.model())  # type: ignore[union-attr]
    _shaken(attachment.tuner.parameters, but=attachment.delta.parameters)
    found = gradients(attachment.module, batch, attachment.delta.parameters)
    torch.manual_seed(1)
    alone: Any = make_method(HybridSpec(parts=(PARTS[0], part))).tuner.attach(tiny.model())  # type: ignore[union-attr]
    _shaken(alone.parameters)
    places = attachment.delta.places
    names = [f"base_model.model.{c.name}" for c in places]
    modules = dict(alone.module.named_modules())
    weights = [getattr(modules[n], "base_layer", modules[n]).weight.requires_grad_(True) for n in names]
    for mine, theirs, indices in zip(
        found, gradients(alone.module, batch, weights), attachment.delta.indices, strict=True
    ):
        torch.testing.assert_close(mine, theirs.view(-1)[indices.long()], atol=1e-6, rtol=1e-4)


def _shaken(parameters: list[Any], but: Sequence[Any] = ()) -> None:
    """Away from where tuners begin, at which they add nothing."""
    others = {id(p) for p in but}
    generator = torch.Generator().manual_seed(2)
    for parameter in parameters:
        if id(parameter) not in others:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([PARTS[1], PARTS[0]], "must begin with"),
        ([{"type": "lift"}, PARTS[1]], "must begin with"),
        ([PARTS[0], {"type": "full"}], "must end with"),
        ([PARTS[0], {"type": "peft", "tuner": "adalora"}], "adalora is not allowed"),
        ([PARTS[0], {"type": "peft", "tuner": "lora", "options": {"bias": "all"}}], "bias"),
        ([PARTS[0], {"type": "peft", "tuner": "hira"}], "weights themselves"),
        ([PARTS[0], {"type": "dora", "dropout": 0.1}], "no dropout"),
        ([PARTS[0], {"type": "lora", "rnak": 2}], "rnak"),
        ([PARTS[0]], "parts"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        HybridSpec.model_validate({"parts": parts})


def barely_trained(stage: int) -> float:
    """On each rank: the share of its entries that full training in bfloat16 by much less than its precision changed."""
    sweep = tiny.sweep(stage, "bfloat16", steps=STEPS, learning_rate=1e-6, clip_norm=None, weight_decay=0.0)
    resident = tiny.resident(sweep)
    before = tiny.whole_weights(resident.model)
    context = tiny.context(resident, SEED, method={"type": "lt_sft", "density": 0.04})
    owned = changes_of_full_training(context, find_candidates(resident.model), STEPS)
    assert tiny.same(tiny.whole_weights(resident.model), before), "the full fine-tuning is undone"
    return float(torch.cat([change.view(-1) for change in owned.sums.values()]).count_nonzero()) / sum(
        change.numel() for change in owned.sums.values()
    )


@pytest.mark.parametrize("stage", [1, pytest.param(3, marks=pytest.mark.long)])
def test_changes_that_bfloat16_rounds_away_count(ranks: Callable, stage: int) -> None:
    assert min(ranks(2)(barely_trained, stage)) > 0.95


def lottery(stage: int) -> dict[str, list[int]]:
    """On each rank: LT-SFT's mask."""
    resident = tiny.resident(tiny.sweep(stage, steps=STEPS, clip_norm=None, weight_decay=0.0))
    before = tiny.whole_weights(resident.model)
    context = tiny.context(resident, SEED, method={"type": "lt_sft", "density": 0.04})
    method: Any = make_method(context.configuration.method)
    mask = select(context, find_candidates(resident.model), method).mask
    assert tiny.same(tiny.whole_weights(resident.model), before), "the full fine-tuning is undone"
    return {n: i.tolist() for n, i in mask.indices.items()}


@pytest.mark.parametrize("stage", [1, pytest.param(3, marks=pytest.mark.long)])
def test_the_lottery_ticket_is_what_full_fine_tuning_changes_most(ranks: Callable, stage: int) -> None:
    found, other = ranks(2)(lottery, stage)
    assert found == other, "the ranks agree"
    model = tiny.model().requires_grad_(True)
    before = {c.name: c.weight.detach().clone() for c in find_candidates(model)}
    sweep, parameters = tiny.sweep(0, steps=STEPS), list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)
    stream = batches(tiny.examples(), sweep.training.batch_size, SEED)
    for step in range(STEPS):
        for parameter, gradient in zip(parameters, gradients(model, next(stream), parameters), strict=True):
            parameter.grad = gradient
        optimizer.param_groups[0]["lr"] = learning_rate(sweep.training, step, STEPS)
        optimizer.step()
    changes = {c.name: (c.weight.detach() - before[c.name]).abs().view(-1) for c in find_candidates(model)}
    k = round(0.04 * sum(p.numel() for p in parameters))
    least = float(torch.cat(list(changes.values())).topk(k).values[-1])
    assert sum(map(len, found.values())) == k
    # AdamW's first steps are alike for all entries, so that many changes differ in their last bits only.
    assert all(bool((changes[n][i] > 0.999 * least).all()) for n, i in found.items())
    assert any(bool((change < 0.9 * least).any()) for change in changes.values())
