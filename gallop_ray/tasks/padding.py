"""Batches for evaluation: rows padded on the left where the model reads them as if they stood alone."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from gallop_ray.sparse.weights import all_ranks

# What another order of additions makes of logits. Of SmolLM2-135M's in bfloat16 0.04, in three of a hundred more than
# 0.1, in float16 0.003 to 0.012, in float32 4e-6 at most; eight columns of padding that count make 0.13 to 0.5 of them.
_NOISE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_TRIES = 5  # texts in bfloat16; else one
Text = TypeVar("Text")
_PASS = 64  # a forward pass costs as much as so many tokens, beside its own


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
    width = max(map(len, rows), default=0)

    def same(row: Sequence[int]) -> bool:
        alone, padded = (
            last_logits(model, *left_padded([row], pad_id, model.device, wide), 1).double() for wide in (0, width)
        )
        return alike(alone, padded, model.dtype)

    shorter = sorted((row for row in rows if len(row) < width), key=len)
    return not shorter or holds(model, shorter, same)


def holds(model: Any, texts: Iterable[Text], same: Callable[[Text], bool]) -> bool:
    """Whether the model says the same of a text, which should be the one that most speaks against it. Collective.

    In bfloat16 of one of the first few: what a trained model says of one text in five differs by more than `alike`
    allows for no other reason than the order of additions. Of padding that counts it is all texts, and by far more.
    """
    return any(all_ranks(same(text)) for text in islice(texts, _TRIES if model.dtype == torch.bfloat16 else 1))


def alike(logits: Tensor, others: Tensor, dtype: torch.dtype) -> bool:
    """Whether logits (n, V) of a model of this dtype differ in no row by more than another order of additions makes."""
    # Of the logits only differences count, and few of many vary by more than the rest.
    spread = (logits - logits.mean(-1, keepdim=True)).norm(dim=-1)
    return bool(((logits - others).norm(dim=-1) <= _NOISE[dtype] * spread).all())


def batches(
    lengths: Sequence[int], size: int, tokens: int | None = None, equal: bool = False, passes: int = 1
) -> list[list[int]]:
    """Which rows to run together, by their lengths: at most `size`, and at most `tokens` with their padding.

    Rows of like length go together, in ascending order; how many, so that passes and padding together cost least.
    A row that is longer than `tokens` runs alone. equal: only rows of one length together.
    passes: how many a batch takes.
    """
    return [list(each) for each in _batches(tuple(lengths), size, tokens, equal, passes)]


@lru_cache(maxsize=256)  # every run asks for those of the same texts
def _batches(lengths: tuple[int, ...], size: int, tokens: int | None, equal: bool, passes: int) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    least, begins = [0.0], [0]  # of the first so many rows the cost, and where their last batch begins
    for end in range(1, len(order) + 1):
        longest, best = lengths[order[end - 1]], (math.inf, 0)
        for begin in range(end - 1, max(0, end - size) - 1, -1):
            count = end - begin
            if count > 1 and ((tokens and count * longest > tokens) or (equal and lengths[order[begin]] < longest)):
                break
            best = min(best, (least[begin] + passes * _PASS + count * longest, begin))
        least.append(best[0])
        begins.append(best[1])
    found, end = [], len(order)
    while end:
        found.append(order[begins[end] : end])
        end = begins[end]
    return found[::-1]
