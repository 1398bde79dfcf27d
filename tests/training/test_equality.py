"""Sparse training under DeepSpeed ZeRO equals dense AdamW with masked gradients, and leaves everything else alone."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gallop_ray.errors import Diverged
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.mask import Mask
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.encode import IGNORED, answer_loss, collate
from gallop_ray.training.batches import batches
from gallop_ray.training.engine import Engine, deepspeed_config
from gallop_ray.training.loop import train
from gallop_ray.training.run import checkpointing
from gallop_ray.training.schedules import learning_rate
from tests.training import tiny


class Losses:
    """A reporter that keeps the logged losses."""

    adapter = checkpoint = Path()

    def __init__(self) -> None:
        self.losses: list[float] = []

    def event(self, event: str, **fields: Any) -> None:
        if event == "step":
            self.losses.append(fields["loss"])


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All weights, in main memory. Collective."""
    return {name: weight.cpu() for name, weight in tiny.whole_weights(model).items()}


def sparse_losses(sweep: Sweep, runs: int = 1, everywhere: bool = False) -> dict[str, Any]:
    """On each rank: train the tiny model's delta with the shipped loop and config; what it did to the weights."""
    resident, training, masks = tiny.resident(sweep), sweep.training, tiny.mask_tensors(everywhere=everywhere)
    base = weights_of(resident.model)
    losses, trained = [], {}
    for _ in range(runs):
        mask = Mask({n: m.view(-1).nonzero().view(-1).to(torch.int32) for n, m in masks.items() if m.any()})
        candidates = find_candidates(resident.model, tiny.EVERYWHERE if everywhere else None)
        delta = SparseDelta(resident.model, candidates, mask)
        reporter = Losses()
        with checkpointing(resident.model, training):
            optimizer = torch.optim.AdamW(delta.parameters, lr=1.0, weight_decay=training.weight_decay)
            context = tiny.context(resident, reporter=reporter)
            config = resident.config(training, sum(p.numel() for p in delta.parameters), context.micro_steps)
            engine = Engine(delta.module, config, optimizer)
            train(context, delta, engine)
            engine.close()
        trained = {n: w for n, w in weights_of(resident.model).items() if not n.endswith(".values")}
        delta.detach()
        losses.append(reporter.losses)
    outside = [
        n
        for n, w in trained.items()
        if not torch.equal(
            *(t[~masks[n.removesuffix(".weight")]] if n.removesuffix(".weight") in masks else t for t in (w, base[n]))
        )
    ]
    restored = tiny.same(base, weights_of(resident.model))
    return {"losses": losses, "trained": trained, "outside": outside, "restored": restored}


def dense_reference(sweep: Sweep, everywhere: bool = False) -> tuple[list[float], dict[str, torch.Tensor]]:
    """One process, plain torch: AdamW on whole weights, gradients masked, decay on the chosen entries only."""
    model, training, masks = tiny.model(), sweep.training, tiny.mask_tensors(everywhere=everywhere)
    chosen = {n: p for n, p in model.named_parameters() if n.removesuffix(".weight") in masks}
    start = {n: p.detach().clone() for n, p in chosen.items()}
    optimizer = torch.optim.AdamW(chosen.values(), lr=1.0, weight_decay=training.weight_decay)
    losses, stream = [], batches(tiny.examples(), training.batch_size, 3)
    for step in range(training.steps or 0):
        optimizer.param_groups[0]["lr"] = learning_rate(training, step, training.steps or 0)
        model.requires_grad_(False)
        for p in chosen.values():
            p.requires_grad_(True)
        batch = collate(next(stream), 0)
        labels = batch.pop("labels")
        losses_of_examples, tokens = answer_loss(model(**batch).logits, labels), (labels[:, 1:] != IGNORED).sum(1)
        even = torch.full_like(losses_of_examples, 1 / len(tokens))
        weights = tokens / tokens.sum() if training.loss == "token" else even
        loss = (losses_of_examples * weights).sum()
        loss.backward()
        for n, p in chosen.items():
            p.grad *= masks[n.removesuffix(".weight")]
        if training.clip_norm:
            torch.nn.utils.clip_grad_norm_(chosen.values(), training.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for n, p in chosen.items():
                p.copy_(torch.where(masks[n.removesuffix(".weight")], p, start[n]))
        losses.append(loss.item())
    return losses, {n: p.detach() for n, p in model.named_parameters()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("stage", "everywhere"), [(0, False), (1, False), (2, False), (3, False), (1, True), (3, True)]
)
def test_sparse_training_equals_dense_masked_adamw(
    ranks: Callable, stage: int, everywhere: bool, checkpointing: bool
) -> None:
    sweep = tiny.sweep(stage, workers=2, weight_decay=0.1, clip_norm=0.5, gradient_checkpointing=checkpointing)
    losses, weights = dense_reference(sweep, everywhere)
    for result in ranks(2)(sparse_losses, sweep, 2, everywhere):
        assert result["losses"][0] == pytest.approx(losses, abs=1e-5)
        assert result["losses"][0] == result["losses"][1], "the second run repeats the first, bitwise"
        assert result["outside"] == []
        assert result["restored"]
        for name, weight in result["trained"].items():
            torch.testing.assert_close(weight, weights[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("stage", "loss", "micro"), [(1, "example", 2), (3, "token", 1)])
def test_packed_examples_train_as_they_do_with_padding(ranks: Callable, stage: int, loss: str, micro: int) -> None:
    """Rows of 24 hold two or three examples, so that the steps have other micro-batches than without packing."""
    packing = {"packing": True, "max_length": 24, "micro_batch_size": micro}
    sweep = tiny.sweep(stage, workers=2, weight_decay=0.1, clip_norm=0.5, loss=loss, **packing)
    losses, weights = dense_reference(sweep)
    for result in ranks(2)(sparse_losses, sweep, 2):
        assert result["losses"][0] == pytest.approx(losses, abs=1e-5)
        assert result["losses"][0] == result["losses"][1], "the second run repeats the first, bitwise"
        for name, weight in result["trained"].items():
            torch.testing.assert_close(weight, weights[name], atol=1e-5, rtol=1e-4)


def test_bfloat16_stages_agree(ranks: Callable) -> None:
    losses = {}
    for stage in (0, 1, 2, 3):
        result = ranks(2)(sparse_losses, tiny.sweep(stage, "bfloat16", workers=2))[0]
        assert result["outside"] == []
        assert result["restored"]
        losses[stage] = result["losses"][0]
    assert losses[0] == losses[1], "bfloat16 at stage 0 runs as stage 1"
    assert losses[2] == pytest.approx(losses[1], abs=1e-3)
    assert losses[3] == pytest.approx(losses[1], abs=1e-3)
    assert losses[1][-1] < losses[1][0]


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.long)])
def test_other_numbers_of_workers(ranks: Callable, workers: int) -> None:
    sweep = tiny.sweep(3, workers=workers, batch_size=12, micro_batch_size=1)
    losses, _ = dense_reference(sweep)
    result = ranks(workers)(sparse_losses, sweep)[0]
    assert result["losses"][0] == pytest.approx(losses, abs=1e-5)
    assert result["restored"]
    assert not math.isnan(losses[-1])


@pytest.mark.parametrize(("stage", "micro"), [(1, 1), (3, 4)])
def test_the_loss_by_tokens_is_exact_over_micro_batches_and_ranks(ranks: Callable, stage: int, micro: int) -> None:
    sweep = tiny.sweep(stage, workers=2, loss="token", micro_batch_size=micro)
    losses, weights = dense_reference(sweep)
    result = ranks(2)(sparse_losses, sweep)[0]
    assert result["losses"][0] == pytest.approx(losses, abs=1e-5)
    for name, weight in result["trained"].items():
        torch.testing.assert_close(weight, weights[name], atol=1e-5, rtol=1e-4)
    assert losses != pytest.approx(dense_reference(tiny.sweep(stage, workers=2))[0], abs=1e-3)


def ends_in_infinity() -> str:
    """One step, whose loss is still that of the base model."""
    sweep = tiny.sweep(1, workers=2, steps=1, learning_rate=1e30, weight_decay=1e10, schedule="constant")
    try:
        sparse_losses(sweep)
    except Diverged as error:
        return str(error)
    return "nothing"


def test_what_the_last_step_destroys_is_noticed(ranks: Callable) -> None:
    for said in ranks(2)(ends_in_infinity):
        assert said.startswith("trained values contain NaN or inf after the last step")


@pytest.mark.parametrize(("batch", "micro", "workers"), [(10, 4, 1), (8, 4, 4), (30, 8, 1)])
def test_a_batch_that_micro_batches_do_not_divide_is_refused(batch: int, micro: int, workers: int) -> None:
    training = tiny.sweep().training.model_copy(update={"batch_size": batch, "micro_batch_size": micro})
    with pytest.raises(ValueError, match=f"batch_size {batch} must be a multiple of micro_batch_size x workers"):
        deepspeed_config(tiny.sweep().deepspeed, training, torch.float32, workers, 100)


def step_too_often() -> str:
    """Train with an engine that steps after every second micro-batch, where a batch has four."""
    resident = tiny.resident(tiny.sweep())
    candidates = find_candidates(resident.model)
    delta = SparseDelta(resident.model, candidates, Mask({candidates[0].name: torch.arange(9, dtype=torch.int32)}))
    config = resident.config(resident.sweep.training, 9) | {"gradient_accumulation_steps": 2}
    engine = Engine(delta.module, config, torch.optim.AdamW(delta.parameters, lr=1.0))
    try:
        with pytest.raises(AssertionError, match="a batch is one optimizer step") as error:
            train(tiny.context(resident, reporter=Losses()), delta, engine)
    finally:
        engine.close()
    return str(error.value)


def test_the_loop_counts_no_step_that_was_none_or_two(ranks: Callable) -> None:
    assert ranks(1)(step_too_often)
