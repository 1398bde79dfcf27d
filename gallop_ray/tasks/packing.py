"""Several examples in one row, without padding between them: which go together, and the loss of each as if alone.

A row's positions begin again with every example. From that transformers sees, where no attention mask is given, which
tokens belong together, and lets none attend to another example's.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gallop_ray.tasks.encode import IGNORED, Encoded, answer_positions, answer_token_losses, on_device


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of indices whose lengths add up to at most `capacity`, by best fit, the longest first.

    One that is longer than that has a bin of its own. Takes at most 11/9 of the fewest bins, and one more (D. S.
    Johnson, Near-optimal bin packing algorithms, 1973).
    """
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # what each bin still takes, ascending, and which it is
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = bisect_left(free, (lengths[index], -1))
        room, chosen = free.pop(place) if place < len(free) else (capacity, len(bins))
        if chosen == len(bins):
            bins.append([])
        bins[chosen].append(index)
        insort(free, (room - lengths[index], chosen))
    return bins


@dataclass(frozen=True)
class Packed(Sequence[Encoded]):
    """The examples of a micro-batch, row after row."""

    rows: tuple[tuple[Encoded, ...], ...]

    def __len__(self) -> int:
        return sum(map(len, self.rows))

    def __iter__(self) -> Iterator[Encoded]:
        return (one for row in self.rows for one in row)

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]


def portions(batch: Sequence[Encoded], capacity: int, count: int) -> list[Packed]:
    """A batch in `count` micro-batches of packed rows, as equal in rows as can be; rows of like length together.

    There are at least as many examples as micro-batches; where there are fewer rows, full ones are divided.
    """
    lengths = [len(one.input_ids) for one in batch]
    bins = pack(lengths, capacity)
    while len(bins) < count:
        fullest = max((each for each in bins if len(each) > 1), key=lambda each: sum(lengths[i] for i in each))
        bins.remove(fullest)
        bins += [fullest[::2], fullest[1::2]]
    bins.sort(key=lambda each: -sum(lengths[i] for i in each))
    ends = [len(bins) * part // count for part in range(count + 1)]
    rows = [tuple(batch[i] for i in each) for each in bins]
    return [Packed(tuple(rows[begin:end])) for begin, end in pairwise(ends)]


def collate_packed(part: Packed, pad_id: int) -> dict[str, Tensor]:
    """int64 tensors input_ids, position_ids and labels, and which example each token is of, (rows, longest) each.

    What fills a row up counts as an example of its own, of which nothing is learnt; its owner is -1.
    """
    width = max(sum(len(one.input_ids) for one in row) for row in part.rows)
    made: dict[str, list[list[int]]] = {"input_ids": [], "position_ids": [], "labels": [], "owners": []}
    first = 0
    for row in part.rows:
        each = [(one.input_ids, [IGNORED, *one.labels[1:]], first + i) for i, one in enumerate(row)]
        rest = width - sum(len(ids) for ids, *_ in each)
        each.append(([pad_id] * rest, [IGNORED] * rest, -1))
        # An example's first token is predicted by nothing, least of all by the example before it.
        made["input_ids"].append([token for ids, *_ in each for token in ids])
        made["labels"].append([label for _, labels, _ in each for label in labels])
        made["position_ids"].append([place for ids, *_ in each for place in range(len(ids))])
        made["owners"].append([owner for ids, _, owner in each for _ in ids])
        first += len(row)
    return {name: torch.tensor(rows) for name, rows in made.items()}


def packed_losses(model: Any, part: Packed, pad_id: int, device: torch.device) -> Tensor:
    """Each example's mean answer loss (examples,), in the order of the rows, by one forward pass."""
    batch = collate_packed(part, pad_id)
    labels, owners = batch.pop("labels"), batch.pop("owners")
    positions, inputs = answer_positions(labels), {name: on_device(tensor, device) for name, tensor in batch.items()}
    logits = model(**inputs, use_cache=False, logits_to_keep=on_device(positions, device)).logits
    losses, chosen = answer_token_losses(logits, labels, positions)
    owner = on_device(owners[:, positions + 1], device)[chosen]
    zeros = losses.new_zeros(len(part))
    counts = zeros.index_add(0, owner, torch.ones_like(losses[chosen]))
    return zeros.index_add(0, owner, losses[chosen]) / counts.clamp(min=1)
