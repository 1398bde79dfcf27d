"""Several continuations of one prompt, run in one row: the prompt once, the continuations as branches after it.

A row is a tree of tokens, each of which attends to those that lead up to it alone and has the position that it has
there. A row without branches is an ordinary text. Not every model reads such rows; see `reads_branches`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gallop_ray.tasks.padding import alike, holds, last_logits, left_padded

_WINDOWS = ("window", "window_size", "chunk_size")  # sliding_window of most families, window_size, attention_chunk_size
_EVEN = 4096  # tokens in a row from which on attention costs more than all else, in small models

Asked = Mapping[Any, Sequence[int]]
"""Continuations of a prompt, by names of the caller's, which can be keys of a dict."""


@dataclass
class Row:
    """Tokens to run, the place of the one before each of them (-1 for none), and what is read.

    reads: for each continuation the places whose logits predict its tokens. Its last token is not run unless another
    continues it.
    """

    ids: list[int]
    before: list[int]
    asked: dict[Any, list[int]] = field(default_factory=dict)
    reads: dict[Any, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, prompt: Sequence[int], asked: Asked) -> "Row":
        """A prompt of at least one token, and continuations of at least one each."""
        row = cls(list(prompt), list(range(-1, len(prompt) - 1)))
        known: dict[tuple[int, int], int] = {}
        for name, tokens in asked.items():
            places = [len(prompt) - 1]
            for token in tokens[:-1]:
                place = known.setdefault((places[-1], token), len(row.ids))
                if place == len(row.ids):
                    row.ids.append(token)
                    row.before.append(places[-1])
                places.append(place)
            row.asked[name], row.reads[name] = list(tokens), places
        return row

    @cached_property
    def trunk(self) -> int:
        """How many tokens there are up to the first branch."""
        return next((place for place, before in enumerate(self.before) if before != place - 1), len(self.ids))

    @property
    def branched(self) -> bool:
        """Whether it has more than one end."""
        return self.trunk < len(self.ids)

    @property
    def kept(self) -> int:
        """At how many of its last places logits are needed."""
        return len(self.ids) - min(places[0] for places in self.reads.values())

    @property
    def cost(self) -> float:
        """Of running it, as of so many tokens of a short text."""
        return len(self.ids) * (1 + len(self.ids) / _EVEN)

    def positions(self) -> list[int]:
        """The position of each token in the text that leads up to it."""
        found: list[int] = []
        for before in self.before:
            found.append(found[before] + 1 if before >= 0 else 0)
        return found

    def text(self, place: int) -> list[int]:
        """The tokens that lead up to a place, and its own."""
        found: list[int] = []
        while place >= 0:
            found.append(self.ids[place])
            place = self.before[place]
        return found[::-1]

    def seen(self) -> Tensor:
        """Which tokens each token attends to, bool (tokens, tokens)."""
        seen = torch.eye(len(self.ids), dtype=torch.bool)
        seen[: self.trunk, : self.trunk].logical_or_(torch.ones(self.trunk, self.trunk, dtype=torch.bool).tril())
        for place in range(self.trunk, len(self.ids)):
            seen[place].logical_or_(seen[self.before[place]])
        return seen


def rows_of(prompt: Sequence[int], asked: Asked, branches: bool) -> list[Row]:
    """What to run for these continuations: one row if that is cheaper and the model reads it, else a row for each.

    Those that another continues, or that differ from it in their last token alone, share its row in any case.
    """
    apart: list[dict[Any, Sequence[int]]] = []
    for name in sorted(asked, key=lambda name: -len(asked[name])):
        head = list(asked[name][:-1])
        home = next((one for one in apart if list(next(iter(one.values()))[: len(head)]) == head), None)
        if home is None:
            apart.append({name: asked[name]})
        else:
            home[name] = asked[name]
    alone = [Row.of(prompt, each) for each in apart]
    if branches and len(alone) > 1:
        whole = Row.of(prompt, asked)
        return [whole] if whole.cost < sum(row.cost for row in alone) else alone
    return alone


def row_logits(model: Any, rows: Sequence[Row], pad_id: int) -> Iterator[Tensor]:
    """Of each row the logits (its `kept`, V), by one forward pass over all of them."""
    ids, mask = left_padded([row.ids for row in rows], pad_id, model.device)
    count = max(row.kept for row in rows)
    if any(row.branched for row in rows):
        logits = _branched_logits(model, rows, ids, count)
    else:
        logits = last_logits(model, ids, mask, count)
    return (one[-row.kept :] for one, row in zip(logits, rows, strict=True))


def _branched_logits(model: Any, rows: Sequence[Row], ids: Tensor, count: int) -> Tensor:
    width = ids.shape[1]
    seen = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    for one, places, row in zip(seen, positions, rows, strict=True):
        begin = width - len(row.ids)
        one[begin:, begin:] = row.seen()
        places[begin:] = torch.tensor(row.positions())
    # Added to the scores of attention by every implementation that takes a mask of four dimensions, as bool is not.
    hidden = torch.zeros(seen.shape, dtype=model.dtype).masked_fill_(~seen, torch.finfo(model.dtype).min)
    logits: Tensor = model(
        input_ids=ids,
        attention_mask=hidden[:, None].to(ids.device),
        position_ids=positions.to(ids.device),
        logits_to_keep=count,
        use_cache=False,
    ).logits
    return logits[:, -count:]


def log_probabilities(logits: Tensor, row: Row) -> dict[Any, list[float]]:
    """Of each continuation those of its tokens, from the row's (kept, V) logits."""
    names, first = list(row.asked), len(row.ids) - row.kept
    places = torch.tensor([place - first for name in names for place in row.reads[name]], device=logits.device)
    tokens = torch.tensor([token for name in names for token in row.asked[name]], device=logits.device)
    values = iter(logits.float().log_softmax(-1)[places, tokens].tolist())
    return {name: [next(values) for _ in row.asked[name]] for name in names}


def reads_branches(model: Any, rows: Sequence[Row], pad_id: int) -> bool:
    """Whether the model says of the longest of these branched rows what it says of its last text alone.

    It does not where it attends to what it likes, whatever the mask (recurrent states, positions from the columns), nor
    where it cannot take such a mask. Windows of attention end it, too. Without gradients and dropout; collective.
    """
    longest_first = sorted(rows, key=lambda row: -len(row.ids))
    if len(longest_first[0].ids) > window(model):
        return False
    return holds(model, longest_first, lambda row: _read_as_alone(model, row, pad_id))


def _read_as_alone(model: Any, row: Row, pad_id: int) -> bool:
    try:
        (together,) = row_logits(model, [row], pad_id)
    except Exception:  # whatever a family raises of a mask or of positions that it does not expect
        return False
    name, places = max(row.reads.items(), key=lambda each: each[1][-1])
    (alone,) = row_logits(model, [Row.of(row.text(places[0]), {name: row.asked[name]})], pad_id)
    there = together[torch.tensor(places, device=together.device) - (len(row.ids) - row.kept)]
    return alike(alone.double(), there.double(), model.dtype)


def window(model: Any) -> float:
    """How many tokens back every layer attends, as the model's settings have it."""
    settings = model.config.get_text_config().to_dict()
    limits = [value for name, value in settings.items() if name.endswith(_WINDOWS) and isinstance(value, int) and value]
    return min(limits, default=math.inf)
