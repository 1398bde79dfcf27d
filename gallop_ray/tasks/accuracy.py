"""What a model generates, and whether that is right."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from gallop_ray.tasks.answers import is_decided, is_right, read_answer
from gallop_ray.tasks.chat import chat_end
from gallop_ray.tasks.decoding import Beginning, Together, beginning, decoded, decodes
from gallop_ray.tasks.encode import encode_prompt, ends_as_chat
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.padding import batches, left_padded, reads_padded
from gallop_ray.tasks.passes import evaluating, in_step, over_ranks
from gallop_ray.tasks.settings import EvaluationSettings

_TOGETHER = 4  # times as many prompts as go through one pass continue together


@dataclass(frozen=True)
class Generated:
    """What a model generated for each example, what was read from it, and whether that is right.

    Of free text nothing is read.
    """

    correct: list[bool]
    outputs: list[str]
    read: list[float | None]


def generation_correct(
    model: Any, tokenizer: Any, examples: Sequence[Example], settings: EvaluationSettings
) -> Generated:
    """For each example, the greedily generated text, and whether the answer that is read from it is the right one.

    The answer is the first option key, or the last number; text without one counts as wrong. Equal on every rank.
    """
    outputs = generated_texts(model, tokenizer, examples, settings)
    read = [read_answer(text, one) for text, one in zip(outputs, examples, strict=True)]
    return Generated([is_right(value, one) for value, one in zip(read, examples, strict=True)], outputs, read)


def generated_texts(model: Any, tokenizer: Any, examples: Sequence[Example], settings: EvaluationSettings) -> list[str]:
    """What follows each example's prompt, greedily, up to the end or a stop text. Equal on every rank."""
    prompts = [encode_prompt(one, tokenizer, settings.prompt, settings.max_length) for one in examples]
    with_options = all(one.kind == "choice" for one in examples)
    tokens = settings.max_new_tokens if with_options else settings.max_reasoning_tokens
    # What is trained to end with the template's marker ends there, whatever the model's own settings name.
    ends = chat_end(tokenizer) if any(ends_as_chat(one, settings.prompt) for one in examples) else []
    keys = [one.keys if settings.decided else () for one in examples]
    how = Generation(tokens, settings.stop, tuple(ends))
    return generated(model, tokenizer, list(zip(prompts, keys, strict=True)), how, settings.batch_size)


@dataclass(frozen=True)
class Generation:
    """At most so many tokens, up to the first of the stop texts.

    ends: the tokens that end a chat's answer, beside the model's own end tokens.
    """

    tokens: int
    stop: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()


Prompt = tuple[list[int], Sequence[str]]
"""The tokens of a prompt, and the keys of which the first one that is generated decides; none where nothing does."""


def generated(model: Any, tokenizer: Any, prompts: Sequence[Prompt], how: Generation, size: int) -> list[str]:
    """What follows each prompt, greedily, `size` at a time. Collective; equal on every rank."""
    if not prompts:
        return []
    if len(how.ends) > 1 or not {*how.ends} <= {*tokenizer.all_special_ids}:  # a text, and no part of the answer
        how = Generation(how.tokens, (*how.stop, tokenizer.decode(list(how.ends))))
    ids = [tokens for tokens, _ in prompts]
    with evaluating(model):
        equal = not reads_padded(model, ids, tokenizer.pad_token_id)
        alone = equal or in_step(model) or len(prompts) == 1
        together = None if alone else decodes(model, ids, tokenizer.pad_token_id)
        joined = together is Together.JOINED
        lengths = list(map(len, ids))
        run: Callable[..., list[str]] = _generated
        if together is not None:
            run = partial(_decoded, begun=beginning(model, ids, how.tokens), size=size if joined else None)
        dealt = batches(lengths, size, equal=equal, passes=how.tokens)
        if joined:
            dealt = _groups(lengths, _TOGETHER * size)
        return over_ranks(model, prompts, dealt, lambda batch: run(model, tokenizer, batch, how))


def _groups(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Prompts of like length together, in as few groups as can be, about equally many in each."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    count = -(-len(order) // most)
    ends = [i * len(order) // count for i in range(count + 1)]
    return [order[begin:end] for begin, end in pairwise(ends)]


def _decoded(
    model: Any, tokenizer: Any, batch: list[Prompt], how: Generation, begun: Beginning, size: int | None
) -> list[str]:
    with _greedy(model, tokenizer, how) as settings:
        last = settings.eos_token_id
    over = _Over(tokenizer, how.stop)

    def ends(number: int, tokens: list[int]) -> bool:
        return tokens[-1] in last or over(tokens, batch[number][1])

    found = decoded(model, [ids for ids, _ in batch], how.tokens, tokenizer.pad_token_id, ends, begun, size)
    texts: list[str] = tokenizer.batch_decode(found, skip_special_tokens=True)
    return [_before(text, how.stop) for text in texts]


def _generated(model: Any, tokenizer: Any, batch: list[Prompt], how: Generation) -> list[str]:
    """By transformers, which stays in step with other ranks, and knows all its models."""
    input_ids, mask = left_padded([ids for ids, _ in batch], tokenizer.pad_token_id, model.device)
    stops = _Stop(_Over(tokenizer, how.stop), [keys for _, keys in batch], input_ids.shape[1])
    with _greedy(model, tokenizer, how) as settings:
        generated = model.generate(
            generation_config=settings,
            input_ids=input_ids,
            attention_mask=mask,
            synced_gpus=in_step(model),  # go on until every rank has finished
            stopping_criteria=StoppingCriteriaList([stops] if how.stop or any(keys for _, keys in batch) else []),
        )
    texts: list[str] = tokenizer.batch_decode(generated[:, input_ids.shape[1] :], skip_special_tokens=True)
    return [_before(text, how.stop) for text in texts]


def _before(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the stop texts."""
    return text[: min((place for each in stop if (place := text.find(each)) >= 0), default=len(text))]


class _Over:
    """Whether what was generated holds a stop text, or says which of the keys is meant."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        # A token is a byte or more, a character four at most.
        self._reach = 4 * max(map(len, stop), default=0) + 4

    def __call__(self, tokens: list[int], keys: Sequence[str]) -> bool:
        if self._stop:
            last = self._tokenizer.decode(tokens[-self._reach :])  # special tokens too: some may be stop texts
            if any(each in last for each in self._stop):
                return True
        return bool(keys) and is_decided(self._tokenizer.decode(tokens, skip_special_tokens=True), keys, self._stop)


class _Stop(StoppingCriteria):
    """Ends each row of a batch as soon as what was generated for it is over."""

    def __init__(self, over: _Over, keys: Sequence[Sequence[str]], begin: int) -> None:
        self._over, self._keys, self._begin = over, keys, begin

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        tokens = input_ids[:, self._begin :].tolist()
        ended = [self._over(each, keys) for each, keys in zip(tokens, self._keys, strict=True)]
        return torch.tensor(ended, device=input_ids.device)


@contextmanager
def _greedy(model: Any, tokenizer: Any, how: Generation) -> Iterator[GenerationConfig]:
    """While this is open the model generates greedily: of its own generation settings only the end ids count.

    They are put aside as a whole, for `generate` fills from them whatever a configuration that it is given leaves
    open: minimum lengths, suppressed tokens, stop strings, several sequences.
    """
    owner = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = owner.generation_config
    owner.generation_config = GenerationConfig(
        max_new_tokens=how.tokens,
        do_sample=False,
        eos_token_id=sorted({*end_ids(before, tokenizer), *how.ends}),
        pad_token_id=tokenizer.pad_token_id,
    )
    try:
        yield owner.generation_config
    finally:
        owner.generation_config = before


def end_ids(settings: GenerationConfig, tokenizer: Any) -> list[int]:
    """The tokens that end a text: the tokenizer's, and those that the model's own settings name."""
    own = settings.eos_token_id
    known = own if isinstance(own, list) else [own]
    return sorted({tokenizer.eos_token_id, *(one for one in known if one is not None)})
