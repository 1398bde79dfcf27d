"""How long the texts of examples are, in a model's tokens."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gallop_ray.tasks.encode import encode_options
from gallop_ray.tasks.examples import Example

_NO_LIMIT = 10**9


@dataclass(frozen=True)
class Lengths:
    """In tokens: `texts` of each prompt with its longest answer and an end, the longest `option`, the longest
    `reasoning` that leads up to a number; 0 where there is none."""

    texts: list[int]
    option: int
    reasoning: int


def text_lengths(examples: Sequence[Example], tokenizer: Any, prompt: str) -> Lengths:
    """The lengths of some examples; `prompt` is as data.prompt."""
    with warnings.catch_warnings(action="ignore"):
        encoded = [encode_options(one, tokenizer, prompt, _NO_LIMIT) for one in examples]
    longest = [max(map(len, each.options)) for each in encoded]
    texts = [len(each.prompt) + answer + 1 for each, answer in zip(encoded, longest, strict=True)]
    options = [answer for one, answer in zip(examples, longest, strict=True) if one.keys]
    reasoned = [answer for one, answer in zip(examples, longest, strict=True) if not one.keys]
    return Lengths(texts, max(options, default=0), max(reasoned, default=0))
