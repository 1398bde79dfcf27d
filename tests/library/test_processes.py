"""Adapters on several processes: DDP and ZeRO 1 and 2 train the mask and the values that one process does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gallop_ray.sparse import EntryAdamW, GallopSpec, LiftSpec, SpielSpec, attach
from gallop_ray.sparse.weights import rank
from gallop_ray.training.engine import Engine
from tests.library.test_adapter import batches
from tests.training import tiny

RATE, STEPS, RANKS = 1e-2, 6, 2
SPECS: dict[str, Any] = {
    "gallop": GallopSpec(density=0.05),
    "lift": LiftSpec(density=0.05, rank=4, refresh_every=2),
    "spiel": SpielSpec(density=0.05, refresh_every=3, accumulate=2),
    "spiel ma": SpielSpec(variant="ma", density=0.05, refresh_every=3, accumulate=2),
}
Trained = tuple[dict[str, Tensor], list[Tensor]]


def optimizer_of(spec: Any, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return (EntryAdamW if spec.entry_ages else torch.optim.AdamW)(parameters, lr=RATE)


def by_ddp(name: str) -> Trained:
    """On each rank: DDP around a model whose mask all ranks' batches have chosen."""
    model, spec, data = tiny.resident(tiny.sweep()).model, SPECS[name], batches(4)[rank() :: RANKS]
    adapter = attach(model, spec, data if name == "gallop" else None)
    optimizer = optimizer_of(spec, adapter.parameters())
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    if spec.refreshes:
        adapter.refresh_with(optimizer, STEPS)
    for step in range(STEPS):
        wrapped(**data[step % 2]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return adapter.mask.indices, [values.detach() for values in adapter.parameters()]


def by_zero(stage: int) -> Trained:
    """On each rank: DeepSpeed steps the values, and nobody writes them into the weights."""
    resident = tiny.resident(tiny.sweep(stage, workers=RANKS, batch_size=8, micro_batch_size=4, clip_norm=None))
    data = batches(4)[rank() :: RANKS]
    adapter = attach(resident.model, SPECS["gallop"], data)
    config = resident.config(resident.sweep.training, adapter.mask.chosen)
    engine = Engine(resident.model, config, optimizer_of(SPECS["gallop"], adapter.parameters()))
    for step in range(STEPS):
        engine.backward(engine(**data[step % 2]).loss)
        engine.step(RATE)
    values = [values.detach().clone() for values in adapter.parameters()]
    engine.close()
    return adapter.mask.indices, values


def alone(name: str) -> Trained:
    """In one process, on the batches of all ranks."""
    model, spec, data = tiny.model(), SPECS[name], batches(4)
    adapter = attach(model, spec, data if name == "gallop" else None)
    optimizer = optimizer_of(spec, adapter.parameters())
    if spec.refreshes:
        adapter.refresh_with(optimizer, STEPS)
    for step in range(STEPS):
        first = 2 * (step % 2)
        (sum(model(**batch).loss for batch in data[first : first + 2]) / RANKS).backward()
        optimizer.step()
        optimizer.zero_grad()
    return adapter.mask.indices, [values.detach() for values in adapter.parameters()]


def check(found: list[Trained], name: str) -> None:
    mask, values = alone(name)
    for its_mask, its_values in found:
        assert tiny.same(its_mask, mask)
        torch.testing.assert_close(its_values, values, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_ddp_trains_what_one_process_does(ranks: Callable, name: str) -> None:
    check(ranks(RANKS)(by_ddp, name), name)


@pytest.mark.parametrize("stage", [1, 2])
def test_zero_trains_what_one_process_does(ranks: Callable, stage: int) -> None:
    check(ranks(RANKS)(by_zero, stage), "gallop")


def whole_weights_are_needed(stage: int) -> str:
    resident = tiny.resident(tiny.sweep(stage, workers=RANKS))
    with pytest.raises(ValueError, match="split over processes") as refused:
        attach(resident.model, SPECS["gallop"], batches())
    return str(refused.value)


def test_split_weights_are_refused(ranks: Callable) -> None:
    assert len(set(ranks(RANKS)(whole_weights_are_needed, 3))) == 1
