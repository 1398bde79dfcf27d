"""What WiSE-FT and LiNeS make of full fine-tuning's weights, and Child-Tuning of its gradients, by their formulas."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gallop_ray.methods import make_method
from gallop_ray.sparse.scoring import generator_of
from gallop_ray.spec.schema import Configuration
from gallop_ray.tasks.encode import answer_loss, collate
from gallop_ray.training.attach import attached
from gallop_ray.training.batches import batches
from gallop_ray.training.engine import Engine
from gallop_ray.training.loop import learning_rate, train
from gallop_ray.training.optimizers import make_optimizer
from tests.training import tiny


@pytest.mark.parametrize(
    ("options", "early", "late"),
    [
        ({"type": "wise_ft", "alpha": 0.7}, 0.7, 0.7),
        ({"type": "lines", "first": 0.25, "last": 0.9}, 0.25, 0.9),
        ({"type": "full"}, 1.0, 1.0),
    ],
)
def test_the_change_is_scaled(options: dict[str, Any], early: float, late: float) -> None:
    model = tiny.model()
    base = {name: p.clone() for name, p in model.named_parameters()}
    spec = Configuration.model_validate({"method": options, "training": {}}).method
    attachment = make_method(spec).attach(model)
    generator = torch.Generator().manual_seed(0)
    changes = {name: torch.randn(p.shape, generator=generator) for name, p in base.items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += changes[name]
    attachment.finalize()
    for name, parameter in model.named_parameters():
        scale = early if "embed_tokens" in name or "layers.0." in name else late
        torch.testing.assert_close(parameter.detach(), base[name] + scale * changes[name])
    attachment.detach()
    assert tiny.same(dict(model.named_parameters()), base)


def test_what_comes_after_an_only_block_is_late() -> None:
    model = tiny.model()
    model.model.layers = model.model.layers[:1]
    spec = Configuration.model_validate(
        {"method": {"type": "lines", "first": 0.25, "last": 0.9}, "training": {}}
    ).method
    method: Any = make_method(spec)
    scales = method._scales(model)
    assert (scales["model.embed_tokens.weight"], scales["model.norm.weight"]) == (0.25, 0.9)
    assert {scale for name, scale in scales.items() if "layers.0." in name} == {0.25}


SEED, STEPS, SHARE = 3, 5, 0.3


def thinned(stage: int) -> dict[str, torch.Tensor]:
    """On each rank: the weights that Child-Tuning trains."""
    resident = tiny.resident(tiny.sweep(stage, steps=STEPS, clip_norm=None, weight_decay=0.0))
    context = tiny.context(resident, SEED, method={"type": "child_tuning", "share": SHARE})
    torch.manual_seed(SEED)
    with attached(context) as what:
        optimizer = make_optimizer(context.training, what.attachment.parameters)
        config = resident.config(context.training, resident.parameters, context.micro_steps)
        engine = Engine(what.attachment.module, config, optimizer)
        train(context, what.attachment, engine)
        weights = tiny.whole_weights(resident.model)
        engine.close()
    return weights


@pytest.mark.parametrize("stage", [1, pytest.param(3, marks=pytest.mark.long)])
def test_each_step_of_child_tuning_keeps_a_share_of_the_gradient(ranks: Callable, stage: int) -> None:
    found, _ = ranks(2)(thinned, stage)
    model = tiny.model().requires_grad_(True)
    named, sweep = dict(model.named_parameters()), tiny.sweep(0, steps=STEPS)
    optimizer = torch.optim.AdamW(named.values(), lr=1.0, weight_decay=0.0)
    stream = batches(tiny.examples(), sweep.training.batch_size, SEED)
    for step in range(STEPS):
        inputs = collate(next(stream), 0)
        labels = inputs.pop("labels")
        optimizer.zero_grad()
        answer_loss(model(**inputs).logits, labels).mean().backward()
        for name, parameter in named.items():
            kept = torch.rand(parameter.shape, generator=generator_of(SEED, step + 1, name)) < SHARE
            assert parameter.grad is not None
            parameter.grad *= kept / SHARE
        optimizer.param_groups[0]["lr"] = learning_rate(sweep.training, step, STEPS)
        optimizer.step()
    for name, parameter in named.items():
        # AdamW divides by a gradient's size, however small: where it is rounding alone, steps differ.
        off = (found[name] - parameter.detach()).abs() > 1e-4 + 1e-3 * parameter.detach().abs()
        assert off.float().mean() < 0.001, name
