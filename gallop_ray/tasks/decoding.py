"""Greedy decoding of several prompts at once: what they begin with alike is run once, what is decided leaves.

Not every model can be decoded so; see `decodes`. transformers' own `generate` is for the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from gallop_ray.sparse.weights import all_ranks
from gallop_ray.tasks.branches import window
from gallop_ray.tasks.padding import alike, last_logits, left_padded

Ends = Callable[[int, list[int]], bool]
"""Whether nothing is to follow what was generated for the prompt of a number."""
_WORTH = 64  # tokens that are run once and not several times, from which on a pass of their own is worth it
_TRIED = 2  # tokens


def decoded(model: Any, prompts: Sequence[Sequence[int]], tokens: int, pad_id: int, ends: Ends) -> list[list[int]]:
    """What follows each prompt, the likeliest token each time, up to its end or at most so many. See `evaluating`."""
    rows = _Rows.begin(model, prompts, pad_id, tokens)
    found: list[list[int]] = [[] for _ in prompts]
    active = list(range(len(prompts)))
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


def decodes(model: Any, prompts: Sequence[Sequence[int]], pad_id: int) -> bool:
    """Whether the model says the same so as of whole texts: tried with the shortest and the longest of these prompts.

    Collective.
    """
    pair = [min(prompts, key=len), max(prompts, key=len)]
    try:
        rows = _Rows.begin(model, pair, pad_id, _TRIED, worth=0)
        text = list(pair[0])
        for turn in range(_TRIED):
            said = rows.likeliest()
            text.append(said[0])
            if turn:
                rows.keep([0])
            rows.add(said[:1] if turn else said)
    except Exception:  # whatever a family raises that keeps no such cache
        return all_ranks(False)
    expected = last_logits(model, *left_padded([text], pad_id, model.device), 1)[0]
    return all_ranks(alike(expected.double(), rows.logits[:1].double(), model.dtype))


@dataclass
class _Rows:
    """The state of decoding: what the model has kept of each row, which columns are text, and the last logits."""

    model: Any
    cache: Any
    mask: Tensor
    logits: Tensor

    @classmethod
    def begin(
        cls, model: Any, prompts: Sequence[Sequence[int]], pad_id: int, tokens: int, worth: int = _WORTH
    ) -> "_Rows":
        """Run the prompts, which so many tokens will follow.

        Their common beginning is run once where that saves more than `worth` tokens, and no window of attention counts
        the padding that stands behind it then.
        """
        shared = _shared(prompts)
        rows = cls(model, None, torch.zeros(len(prompts), 0, dtype=torch.long, device=model.device), torch.empty(0))
        if shared * (len(prompts) - 1) > worth and max(map(len, prompts)) + tokens < window(model):
            ids = torch.tensor([list(prompts[0][:shared])], device=model.device)
            rows.mask = rows.mask[:1]
            rows._run(ids, torch.ones_like(ids))
            rows.cache.batch_repeat_interleave(len(prompts))
            rows.mask = rows.mask.expand(len(prompts), -1)
            prompts = [prompt[shared:] for prompt in prompts]
        rows._run(*left_padded(prompts, pad_id, model.device))
        return rows

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


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, leaving each one at least."""
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in alike), min(map(len, prompts)) - 1)
