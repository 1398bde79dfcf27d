"""A hybrid equals a dense reference: AdamW on the chosen entries and on LoRA's matrices, in plain torch."""

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from gallop_ray.methods import make_method
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.topk import largest
from gallop_ray.spec.methods import HybridSpec, RosaSpec
from gallop_ray.tasks.encode import answer_loss, collate
from gallop_ray.training.attach import attached
from gallop_ray.training.batches import batches
from gallop_ray.training.engine import Engine
from gallop_ray.training.loop import learning_rate, train
from gallop_ray.training.optimizers import make_optimizer
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


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_a_hybrid_equals_a_dense_reference(ranks: Callable, name: str, stage: int) -> None:
    found, other = ranks(2)(trained, name, stage)
    assert found["masks"] == other["masks"], "the ranks agree"
    assert found["masks"] == expected_masks(name, found["start"])
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


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([PARTS[1], PARTS[0]], "must begin with"),
        ([{"type": "lift"}, PARTS[1]], "must begin with"),
        ([PARTS[0], {"type": "full"}], "must end with"),
        ([PARTS[0], {"type": "peft", "tuner": "adalora"}], "adalora is not allowed"),
        ([PARTS[0], {"type": "peft", "tuner": "lora", "options": {"bias": "all"}}], "bias"),
        ([PARTS[0], {"type": "lora", "rnak": 2}], "rnak"),
        ([PARTS[0]], "parts"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        HybridSpec.model_validate({"parts": parts})
