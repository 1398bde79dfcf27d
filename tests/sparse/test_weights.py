"""Entries of weights that ZeRO-3 has split: read and written in place, bit for bit, on every rank."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gallop_ray.sparse.weights import (
    full_shape,
    gather,
    gather_all,
    is_split,
    local,
    read_entries,
    world_size,
    write_entries,
)
from gallop_ray.training.engine import deepspeed_config, init_distributed, quiet, split_over_ranks
from tests.training import tiny

SHAPES = {"odd": (5, 7), "one": (1, 1), "vector": (3,), "even": (6, 4)}
INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


def base(dtype: torch.dtype) -> nn.ParameterDict:
    """Weights with -0.0, infinities, a NaN and subnormal numbers among them; the same every time."""
    generator = torch.Generator().manual_seed(0)
    weights = nn.ParameterDict()
    for name, shape in SHAPES.items():
        tensor = torch.randn(shape, generator=generator).to(dtype)
        odd = torch.tensor([-0.0, float("nan"), 1e-40, float("inf"), -0.0, float("-inf"), 0.0])
        flat = tensor.view(-1)
        flat[::2] = odd.to(dtype)[torch.arange(flat[::2].numel()) % len(odd)]
        weights[name] = nn.Parameter(tensor, requires_grad=False)
    return weights


def split_base(dtype: torch.dtype) -> nn.ParameterDict:
    """The same weights, split over the ranks."""
    quiet()
    init_distributed()
    sweep = tiny.sweep(3, str(dtype).removeprefix("torch."))
    weights = base(dtype)
    split_over_ranks(weights, deepspeed_config(sweep.deepspeed, sweep.training, dtype, world_size(), 0))
    assert all(is_split(w) and w.dtype == dtype for w in weights.values())
    return weights


def bits(tensor: Tensor) -> list[int]:
    return tensor.reshape(-1).view(INTEGERS[tensor.dtype]).tolist()


def draws(numel: int) -> list[Tensor]:
    """Sorted flat indices: none, all, the last, and a random half."""
    half = torch.rand(numel, generator=torch.Generator().manual_seed(numel)) < 0.5
    every = torch.arange(numel, dtype=torch.int32)
    return [every[:0], every, every[-1:], every[half]]


def read_and_write(dtype: torch.dtype) -> int:
    """On each rank: compare what is read, before and after a write, with unsplit weights; how many comparisons."""
    whole, weights, compared = base(dtype), split_base(dtype), 0
    for name, weight in weights.items():
        assert full_shape(weight) == whole[name].shape
        assert local(weight).numel() < max(2, whole[name].numel()) or world_size() == 1
        for indices in draws(whole[name].numel()):
            values = -whole[name].view(-1)[indices].flip(0)
            assert bits(read_entries(weight, indices)) == bits(whole[name].view(-1)[indices])
            write_entries(weight, indices, values)
            write_entries(whole[name], indices, values)
            assert bits(read_entries(weight, indices)) == bits(values)
            assert bits(gather(weight)) == bits(whole[name])
            assert gather(weight).shape == whole[name].shape
            compared += 1
    for together, (name, alone) in zip(gather_all(list(weights.values())), whole.items(), strict=True):
        assert bits(together) == bits(alone), name
    return compared


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_split_weights_are_read_and_written_bit_for_bit(ranks: Callable, world: int, dtype: torch.dtype) -> None:
    assert ranks(world)(read_and_write, dtype) == [4 * len(SHAPES)] * world


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unsplit_weights_are_no_special_case(dtype: torch.dtype) -> None:
    weight = base(dtype)["odd"]
    indices = torch.tensor([0, 3, 34], dtype=torch.int32)
    assert not is_split(weight)
    assert bits(read_entries(weight, indices)) == bits(weight.view(-1)[indices])
    write_entries(weight, indices, torch.tensor([-0.0, 2.0, -3.0]))
    assert bits(read_entries(weight, indices)) == bits(torch.tensor([-0.0, 2.0, -3.0]).to(dtype))
    assert gather(weight).shape == (5, 7)
    assert gather_all([]) == []
