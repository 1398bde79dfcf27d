"""LoRA that begins with a part of the weights trains as in plain PEFT; the weights keep their bytes."""

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from gallop_ray.methods import TunerMethod, make_method
from gallop_ray.methods.lora_starts import START
from gallop_ray.spec.other_methods import PeftSpec
from gallop_ray.tasks.encode import answer_loss, collate
from gallop_ray.testing import Case, check_case
from gallop_ray.training.attach import attached
from gallop_ray.training.batches import batches
from gallop_ray.training.engine import Engine
from gallop_ray.training.loop import learning_rate, train
from gallop_ray.training.optimizers import make_optimizer
from tests.training import tiny
from tests.training.test_equality import Losses

SEED, STEPS = 3, 6
TRAINING = {"steps": STEPS, "clip_norm": 0.5, "weight_decay": 0.01, "learning_rate": 2e-3}
STARTS: dict[str, dict[str, Any]] = {
    "pissa": {"init_lora_weights": "pissa", "r": 4, "lora_alpha": 8},
    "pissa_niter": {"init_lora_weights": "pissa_niter_8", "r": 4, "lora_alpha": 4, "use_rslora": True},
    "olora": {"init_lora_weights": "olora", "r": 4, "lora_alpha": 4, "rank_pattern": {"down_proj": 6}},
}


def trained(options: dict[str, Any], stage: int, workers: int) -> dict[str, Any]:
    """On each rank: losses, the first factors and the trained ones by PEFT's names, and whether the base moved."""
    resident = tiny.resident(tiny.sweep(stage, workers=workers, **TRAINING))
    before = tiny.whole_weights(resident.model)
    reporter = Losses()
    method = {"type": "peft", "tuner": "lora", "options": options}
    context = tiny.context(resident, SEED, reporter, method)
    torch.manual_seed(SEED)
    with attached(context) as what:
        attachment: Any = what.attachment
        optimizer = make_optimizer(context.training, attachment.parameters)
        engine = Engine(attachment.module, resident.config(context.training, 1000, context.micro_steps), optimizer)
        train(context, attachment, engine)
        tensors = attachment.tensors()
        inside = {
            n.removeprefix("base_model.model.").replace(".base_layer", ""): w
            for n, w in tiny.whole_weights(attachment.module).items()
        }
        kept = tiny.same({n: inside[n] for n in before}, before)
        engine.keep_whole()
        engine.close()
    kept &= tiny.same(tiny.whole_weights(resident.model), before)
    return {"losses": reporter.losses, "tensors": tensors, "base kept": kept}


def plain_peft(options: dict[str, Any], first: dict[str, Tensor]) -> tuple[list[float], dict[str, Tensor]]:
    """PEFT's own way, in one process: it subtracts the first product from the weights."""
    model = tiny.model()
    names = {n.partition(".lora_")[0].removeprefix("base_model.model.") for n in first}
    wrapped: Any = peft.get_peft_model(model, peft.LoraConfig(**options, target_modules=sorted(names)))
    parameters = {n.replace(".default", ""): p for n, p in wrapped.named_parameters() if p.requires_grad}
    for name, values in first.items():
        torch.testing.assert_close(parameters[name].detach(), values, msg=f"{name} begins as in PEFT")
    training = tiny.sweep(0, **TRAINING).training
    optimizer = torch.optim.AdamW(parameters.values(), lr=1.0, weight_decay=training.weight_decay)
    losses, stream = [], batches(tiny.examples(), training.batch_size, SEED)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = learning_rate(training, step, STEPS)
        batch = collate(next(stream), 0)
        labels = batch.pop("labels")
        loss = answer_loss(wrapped(**batch).logits, labels).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), training.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, {n: p.detach() for n, p in parameters.items()}


@pytest.mark.parametrize(("start", "world", "stage"), [("pissa", 1, 0), ("pissa", 2, 3), ("olora", 2, 1)])
def test_it_begins_and_trains_as_in_plain_peft(ranks: Callable, start: str, world: int, stage: int) -> None:
    results = ranks(world)(trained, STARTS[start], stage, world)
    assert all(each["base kept"] for each in results)
    tensors = results[0]["tensors"]
    first = {n.replace(f".{START}.", "."): t for n, t in tensors.items() if START in n}
    losses, expected = plain_peft(STARTS[start], first)
    assert results[0]["losses"] == pytest.approx(losses, abs=2e-5)
    for name, values in expected.items():
        torch.testing.assert_close(tensors[name], values, atol=1e-4, rtol=1e-3)
        assert not torch.allclose(tensors[name], first[name], atol=1e-3), "it has been trained"


@pytest.mark.parametrize("case", [Case(1, 1), pytest.param(Case(2, 3), marks=pytest.mark.long)])
@pytest.mark.parametrize("start", ["pissa_niter", pytest.param("olora", marks=pytest.mark.long)])
def test_it_keeps_the_contract(start: str, case: Case) -> None:
    check_case(case, "peft", {"tuner": "lora", "options": STARTS[start]}, learning_rate=3e-3)


@pytest.mark.parametrize("start", STARTS)
def test_estimates_need_no_weights(start: str) -> None:
    whole, shapes = (make_method(PeftSpec(tuner="lora", options=STARTS[start])) for _ in range(2))
    assert isinstance(whole, TunerMethod)
    assert isinstance(shapes, TunerMethod)
    counts = [
        sum(p.numel() for p in method.attach(model).parameters)
        for method, model in ((whole, tiny.model()), (shapes, tiny.model().to("meta")))
    ]
    assert counts[0] == counts[1] > 0
