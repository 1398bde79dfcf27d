"""Batches for evaluation: rows padded on the left where the model reads them as if they stood alone."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor

from gallop_ray.sparse.weights import all_ranks

Item = TypeVar("Item")
Length = Callable[[Any], int]

_NOISE = {torch.float32: 1e-4, torch.float64: 1e-4}
_COARSE = 3e-2  # 16 bits: what another order of additions makes of logits


def left_padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device, width: int = 0
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, each (batch, longest or `width`), with every row's end at the last position."""
    width = max(width, *map(len, rows))
    ids = [[pad_id] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def last_logits(model: Any, ids: Tensor, mask: Tensor, count: int) -> Tensor:
    """The logits (batch, count, V) of the last positions of left-padded rows."""
    logits: Tensor = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=count,
        use_cache=False,
    ).logits
    return logits[:, -count:]


def reads_padded(model: Any, rows: Sequence[Sequence[int]], pad_id: int) -> bool:
    """Whether the model says the same of a row with padding before it: tried with the shortest of these rows.

    It does not where positions are counted from the first column, whatever the padding (BART's decoder), or where
    padding changes a recurrent state (RWKV). Without gradients and dropout; collective.
    """
    if len(set(map(len, rows))) < 2:
        return True
    shortest, width = min(rows, key=len), max(map(len, rows))
    alone, padded = (
        last_logits(model, *left_padded([shortest], pad_id, model.device, wide), 1).double() for wide in (0, width)
    )
    # Of the logits only differences count, and few of many vary by more than the rest.
    spread = (alone - alone.mean()).norm()
    return all_ranks(bool((alone - padded).norm() <= _NOISE.get(model.dtype, _COARSE) * spread))


def batches(items: Sequence[Item], size: int, length: Length | None = None) -> Iterator[list[Item]]:
    """The items in order, at most `size` at a time; with `length` only such as have one length together."""
    for _, group in groupby(items, length or (lambda item: 0)):
        together = list(group)
        yield from (together[i : i + size] for i in range(0, len(together), size))
