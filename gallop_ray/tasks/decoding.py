"""Greedy decoding of many prompts at once: what they begin with alike is run once, what is decided leaves.

A prompt costs by its tokens, what follows it by the passes, which take hardly longer for more rows: prompts are run a
few at a time, and then continue together.

Not every model can be decoded so; see `decodes`. transformers' own `generate` is for the others.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from gallop_ray.tasks.branches import window
from gallop_ray.tasks.cache import joined, joins
from gallop_ray.tasks.padding import alike, batches, holds, last_logits, left_padded

Ends = Callable[[int, list[int]], bool]
"""Whether nothing is to follow what was generated for the prompt of a number."""
_WORTH = 64  # tokens that are run once and not several times, from which on a pass of their own is worth it
_TRIED = 2  # tokens


@dataclass(frozen=True)
class Beginning:
    """What all prompts begin with: how many tokens, and what the model keeps of them (None where that saves little)."""

    tokens: int = 0
    cache: Any = None


_NOTHING = Beginning()


def beginning(model: Any, prompts: Sequence[Sequence[int]], tokens: int, worth: int = _WORTH) -> Beginning:
    """Run what prompts begin with alike, once for all batches of them; so many tokens will follow each.

    Only where that saves more than `worth` tokens, and no window of attention counts the padding that will stand behind
    it. Each prompt keeps a token of its own at least. See `evaluating`.
    """
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    shared = min(sum(1 for _ in alike), min(map(len, prompts)) - 1)
    if shared * (len(prompts) - 1) <= worth or max(map(len, prompts)) + tokens >= window(model):
        return _NOTHING
    rows = _Rows.of(model, [prompts[0][:shared]], 0)
    return Beginning(shared, rows.cache)


def decoded(
    model: Any,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    pad_id: int,
    ends: Ends,
    begun: Beginning,
    size: int | None = None,
) -> list[list[int]]:
    """What follows each prompt, the likeliest token each time, up to its end or at most so many. See `evaluating`.

    size: run so many prompts at a time at most, before they continue together; only where caches can be joined.
    """
    lengths = list(map(len, prompts))
    parts = [list(range(len(prompts)))] if size is None else batches(lengths, size)
    rows = _Rows.of_parts(model, [[prompts[i] for i in part] for part in parts], pad_id, begun, tokens)
    found: list[list[int]] = [[] for _ in prompts]
    active = [number for part in parts for number in part]
    for _ in range(tokens - 1):
        said = rows.likeliest()
        for number, token in zip(active, said, strict=True):
            found[number].append(token)
        kept = [place for place, number in enumerate(active) if not ends(number, found[number])]
        if not kept:
            return found
        if len(kept) < len(active):
            rows.keep(kept)
        active, said = [active[place] for place in kept], [said[place] for place in kept]
        rows.add(said)
    for number, token in zip(active, rows.likeliest(), strict=True):
        found[number].append(token)
    return found


class Together(Enum):
    """Whether prompts that were run in several passes can continue together, or only those of one pass."""

    JOINED, APART = "joined", "apart"


def decodes(model: Any, prompts: Sequence[Sequence[int]], pad_id: int) -> Together | None:
    """How the model says the same so as of whole texts; None where it does not.

    Tried with the shortest of these prompts, each beside the longest. Collective.
    """
    longest, ways = max(prompts, key=len), set[Together]()

    def same(short: Sequence[int]) -> bool:
        try:
            text, logits, way = _tried(model, short, longest, pad_id)
        except Exception:  # whatever a family raises that keeps no such cache
            return False
        ways.add(way)
        expected = last_logits(model, *left_padded([text], pad_id, model.device), 1)[0]
        return alike(expected.double(), logits.double(), model.dtype)

    # The same way on every rank: it depends on the model alone.
    return ways.pop() if holds(model, sorted(prompts, key=len), same) else None


def _tried(model: Any, short: Sequence[int], longest: Sequence[int], pad_id: int) -> tuple[list[int], Tensor, Together]:
    """A prompt continued beside another: its text, and the logits after it, for each row that holds it."""
    pair, way = [short, longest], Together.APART
    begun = beginning(model, pair, _TRIED, worth=0)
    rows, held = _Rows.of(model, pair, pad_id, begun), [0]
    if joins(rows.cache):
        rows, way = _Rows.joined([rows, _Rows.of(model, [short], pad_id, begun)], _TRIED), Together.JOINED
        held = [0, 2]
    text = list(short)
    for turn in range(_TRIED):
        said = rows.likeliest()[0]
        text.append(said)
        if turn:
            rows.keep(held)
        rows.add([said] * len(rows.mask))
    return text, rows.logits, way


@dataclass
class _Rows:
    """The state of decoding: what the model has kept of each row, which columns are text, and the last logits."""

    model: Any
    cache: Any
    mask: Tensor
    logits: Tensor

    @classmethod
    def of(cls, model: Any, prompts: Sequence[Sequence[int]], pad_id: int, begun: Beginning = _NOTHING) -> "_Rows":
        """Run the prompts, after what they begin with."""
        count, cache = len(prompts), copy.deepcopy(begun.cache)
        if cache is not None:
            cache.batch_repeat_interleave(count)
        mask = torch.ones(count, begun.tokens, dtype=torch.long, device=model.device)
        rows = cls(model, cache, mask, torch.empty(0))
        rows._run(*left_padded([prompt[begun.tokens :] for prompt in prompts], pad_id, model.device))
        return rows

    @classmethod
    def of_parts(
        cls, model: Any, parts: Sequence[Sequence[Sequence[int]]], pad_id: int, begun: Beginning, room: int
    ) -> "_Rows":
        """Run several lists of prompts one after another; of more than one the rows are joined."""
        rows = [cls.of(model, prompts, pad_id, begun) for prompts in parts]
        return cls.joined(rows, room) if len(rows) > 1 or joins(rows[0].cache) else rows[0]

    @classmethod
    def joined(cls, parts: "Sequence[_Rows]", room: int) -> "_Rows":
        """The rows of all parts, with room for so many tokens after them."""
        width = max(part.mask.shape[1] for part in parts)
        masks = [pad(part.mask, (width - part.mask.shape[1], 0)) for part in parts]
        cache, logits = joined([part.cache for part in parts], room), torch.cat([part.logits for part in parts])
        return cls(parts[0].model, cache, torch.cat(masks), logits)

    def _run(self, ids: Tensor, mask: Tensor) -> None:
        self.mask = torch.cat([self.mask, mask], 1)
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache, self.logits = out.past_key_values, out.logits[:, -1]

    def likeliest(self) -> list[int]:
        """The next token of each row."""
        found: list[int] = self.logits.argmax(-1).tolist()
        return found

    def keep(self, places: Sequence[int]) -> None:
        """Of the rows only these."""
        chosen = torch.tensor(places, device=self.mask.device)
        self.cache.batch_select_indices(chosen)
        self.mask, self.logits = self.mask[chosen], self.logits[chosen]

    def add(self, said: Sequence[int]) -> None:
        """Run the token that was chosen for each row."""
        ids = torch.tensor(said, device=self.mask.device)[:, None]
        self._run(ids, torch.ones_like(ids))
