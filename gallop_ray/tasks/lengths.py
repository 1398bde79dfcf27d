"""How long the texts of examples are, in a model's tokens, and which answers are too long."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gallop_ray.tasks.encode import encode_options, no_room
from gallop_ray.tasks.examples import Example, TaskData

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


def too_long(tasks: Iterable[TaskData], tokenizer: Any, max_length: int) -> list[str]:
    """A line for each example whose answer leaves no room for a prompt, in the order of the data.

    Examples with options are measured in all splits. Of those with a number only what is trained on has to fit: the
    others are asked by their prompts alone.
    """
    examples = [one for task in tasks for one in _fitted(task)]
    texts = list(dict.fromkeys(text for one in examples for text in one.options))
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    tokens = dict(zip(texts, map(len, ids), strict=True))
    lengths = [max(tokens[text] for text in one.options) for one in examples]
    return [no_room(one, n, max_length) for one, n in zip(examples, lengths, strict=True) if max_length - n - 1 < 1]


def _fitted(task: TaskData) -> list[Example]:
    return [*task.train, *(one for one in (*task.validation, *task.test) if one.number is None)]
