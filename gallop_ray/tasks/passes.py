"""Forward passes over many examples: how they are dealt to the ranks, and what a model says of continuations.

Results do not depend on the number of ranks: batches are formed over all examples and dealt to ranks in turn. Every
rank goes through the same number of batches, because under ZeRO-3 a forward call is collective.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from gallop_ray.sparse.memory import free_memory, is_out_of_memory
from gallop_ray.sparse.weights import is_split, rank, world_size
from gallop_ray.tasks.branches import Asked, Row, reads_branches, row_logits, rows_of
from gallop_ray.tasks.padding import batches, reads_padded
from gallop_ray.tasks.progress import tick

Item = TypeVar("Item")
Result = TypeVar("Result")
Prompted = tuple[Sequence[int], Asked]
"""A prompt, and the continuations that are asked of it."""


def answered(
    model: Any,
    questions: Sequence[Prompted],
    pad_id: int,
    size: int,
    read: Callable[[Tensor, Row], dict[Any, Result]],
) -> list[dict[Any, Result]]:
    """What `read` (see `log_probabilities`) says of each continuation, by question.

    A question's continuations share one pass over its prompt where the model reads such rows. `size` rows go together
    at most. Collective; equal on every rank, and whatever their number.
    """
    if not questions:
        return []
    with evaluating(model):
        each = [rows_of(*question, branches=True) for question in questions]
        branched = [row for rows in each for row in rows if row.branched]
        if branched and not reads_branches(model, branched, pad_id):
            each = [rows_of(*question, branches=False) for question in questions]
        rows = [row for some in each for row in some]
        texts = [row.ids for row in rows]
        equal = not reads_padded(model, [row.ids for row in rows if not row.branched], pad_id)
        found = iter(
            over_ranks(
                model,
                rows,
                batches(list(map(len, texts)), size, equal=equal),
                lambda batch: [
                    read(logits, row) for logits, row in zip(row_logits(model, batch, pad_id), batch, strict=True)
                ],
            )
        )
    merged = [{name: value for _ in some for name, value in next(found).items()} for some in each]
    return [{name: one[name] for name in asked} for one, (_, asked) in zip(merged, questions, strict=True)]


def over_ranks(
    model: Any, items: Sequence[Item], dealt: Sequence[Sequence[int]], work: Callable[[list[Item]], list[Result]]
) -> list[Result]:
    """`work` over batches of items, given by their places, shared out over the ranks.

    One result per item, in their order, on every rank. A batch for which there is not enough memory is gone through in
    halves, unless the ranks forward in step.
    """
    step = work if in_step(model) else _InParts(work)
    mine = []
    for turn in range(-(-len(dealt) // world_size())):
        # A rank that has run out of batches repeats the last one, uncounted, to stay in step.
        index = min(turn * world_size() + rank(), len(dealt) - 1)
        mine.append(step([items[place] for place in dealt[index]]))
        tick(turn + 1, -(-len(dealt) // world_size()))
    shares = [mine]
    if world_size() > 1:
        shares = [[] for _ in range(world_size())]
        distributed.all_gather_object(shares, mine)
    found = {
        place: result
        for i, places in enumerate(dealt)
        for place, result in zip(places, shares[i % world_size()][i // world_size()], strict=True)
    }
    return [found[place] for place in range(len(items))]


def in_step(model: Any) -> bool:
    """Whether every rank must make the same forward calls: under ZeRO-3 each gathers the weights from all ranks."""
    return world_size() > 1 and any(is_split(parameter) for parameter in model.parameters())


@dataclass
class _InParts:
    """`work` on batches of which only so many items fit into the memory as turns out."""

    work: Callable[[list[Any]], list[Any]]
    most: float = math.inf

    def __call__(self, batch: list[Any]) -> list[Any]:
        if len(batch) > self.most:
            size = int(self.most)
            return [result for i in range(0, len(batch), size) for result in self(batch[i : i + size])]
        try:
            return self.work(batch)
        except Exception as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
        # Only now, when the exception is gone and with it what its frames held.
        free_memory()
        self.most = len(batch) // 2
        return self(batch)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """No gradients and no dropout. Not inference mode, whose tensors ZeRO-3 cannot gather."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), _contiguous_head(model):
            yield
    finally:
        model.train(training)


@contextmanager
def _contiguous_head(model: Any) -> Iterator[None]:
    """The output layer reads hidden states that lie one after another.

    Those of a row's last places are a slice. torch multiplies it row by row by weights that are not trained; in
    bfloat16 it copies them for each, which takes longer than all else. One row counts as contiguous, and is copied too.
    """
    head = model.get_output_embeddings()
    if head is None:
        yield
        return
    hook = head.register_forward_pre_hook(
        # A model that names its argument is left alone: it is slow then, and right.
        lambda _, args: (args[0].clone(memory_format=torch.contiguous_format), *args[1:]) if args else None
    )
    try:
        yield
    finally:
        hook.remove()
