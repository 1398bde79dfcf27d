"""When a run keeps a checkpoint: after so many steps, or so much time by one rank's clock."""

from collections.abc import Callable

import pytest
import torch

from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.mask import Mask
from gallop_ray.spec.schema import Sweep
from gallop_ray.training.engine import Engine
from gallop_ray.training.loop import train
from tests.training import tiny


def kept_after(sweep: Sweep) -> list[int]:
    """On each rank: the steps after which the tiny model's delta is kept."""
    resident, kept = tiny.resident(sweep), list[int]()
    mask = Mask({"model.layers.0.self_attn.q_proj": torch.arange(5, dtype=torch.int32)})
    delta = SparseDelta(resident.model, find_candidates(resident.model), mask)
    engine = Engine(delta.module, resident.config(sweep.training, 5), torch.optim.AdamW(delta.parameters))
    train(tiny.context(resident), delta, engine, keep=lambda state: kept.append(state.step))
    engine.close()
    delta.detach()
    return kept


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, []),
        ({"checkpoint_minutes": None}, []),
        ({"checkpoint_steps": 2}, [2, 4]),
        ({"checkpoint_minutes": 1e-9}, [1, 2, 3, 4]),
    ],
)
def test_every_rank_keeps_at_the_same_steps(ranks: Callable, asked: dict[str, float], expected: list[int]) -> None:
    assert ranks(2)(kept_after, tiny.sweep(1, workers=2, steps=5, **asked)) == [expected, expected]
