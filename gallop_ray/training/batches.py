"""The batches of a run, and the micro-batches of each, shared out over the ranks."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch

from gallop_ray.sparse.weights import rank, world_size
from gallop_ray.spec.training import TrainingSpec
from gallop_ray.tasks.encode import Encoded
from gallop_ray.tasks.packing import pack, portions

_T = TypeVar("_T")


def batches(examples: Sequence[_T], size: int, seed: int) -> Iterator[list[_T]]:
    """Endless batches: every epoch has all examples once, in its own order. The same on any number of ranks."""
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    while True:
        while len(queue) < size:  # what is left of an epoch begins the next batch: none is short
            queue += torch.randperm(len(examples), generator=generator).tolist()
        yield [examples[i] for i in queue[:size]]
        queue = queue[size:]


def micro_batches(batch: Sequence[Encoded], training: TrainingSpec, count: int) -> Iterator[Sequence[Encoded]]:
    """This rank's micro-batches of a batch, `count` of them; see `micro_steps`."""
    if training.packing:
        yield from portions(batch, training.max_length, count * world_size())[rank() :: world_size()]
        return
    size = training.micro_batch_size
    for start in range(rank() * size, len(batch), world_size() * size):
        yield batch[start : start + size]


def micro_steps(examples: Sequence[Encoded], training: TrainingSpec, seed: int, steps: int) -> int:
    """How many micro-batches each rank has in an optimizer step, the same in all of a run's `steps`.

    DeepSpeed is told it once. Packed, a micro-batch has up to micro_batch_size rows of max_length, and the batch with
    the most rows decides: others have fewer rows in each.
    """
    at_once = training.micro_batch_size * world_size()
    if not training.packing:
        return max(1, training.batch_size // at_once)
    lengths = [len(one.input_ids) for one in examples]
    drawn = islice(batches(lengths, training.batch_size, seed), steps)
    return math.ceil(max((len(pack(batch, training.max_length)) for batch in drawn), default=1) / at_once)
