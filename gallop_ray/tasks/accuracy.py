"""What a model generates, whether that is right, and how examples are shared out over the ranks.

Results do not depend on the number of ranks: batches are formed over all examples and dealt to ranks in turn. Every
rank goes through the same number of batches, because under ZeRO-3 a forward call is collective.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from gallop_ray.sparse.memory import free_memory, is_out_of_memory
from gallop_ray.sparse.weights import is_split, rank, world_size
from gallop_ray.tasks.answers import is_right, read_answer
from gallop_ray.tasks.chat import chat_end
from gallop_ray.tasks.encode import encode_prompt, ends_as_chat
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.padding import batches, left_padded, reads_padded

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class EvaluationSettings:
    """How to evaluate.

    At most max_new_tokens are generated for an example with options, max_reasoning_tokens for one without; less where
    one of the texts of `stop` comes, which is left out.
    """

    prompt: str
    max_length: int
    batch_size: int
    max_new_tokens: int = 16
    max_reasoning_tokens: int = 256
    stop: tuple[str, ...] = ()


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
    order = sorted(range(len(examples)), key=lambda i: len(prompts[i]))
    with evaluating(model):
        padded = reads_padded(model, prompts, tokenizer.pad_token_id)
        texts = over_ranks(
            model,
            [prompts[i] for i in order],
            settings.batch_size,
            lambda batch: generate(model, tokenizer, batch, tokens, settings.stop, ends),
            length=None if padded else len,
        )
    return [text for _, text in sorted(zip(order, texts, strict=True))]


def generate(
    model: Any,
    tokenizer: Any,
    batch: list[list[int]],
    tokens: int,
    stop: Sequence[str] = (),
    ends: Sequence[int] = (),
) -> list[str]:
    """What follows each prompt, greedily: at most so many tokens, up to the first of the stop texts. See over_ranks.

    ends: the tokens that end a chat's answer, beside the model's own end tokens.
    """
    if len(ends) > 1 or not {*ends} <= {*tokenizer.all_special_ids}:  # a text, and no part of the answer
        stop, ends = (*stop, tokenizer.decode(list(ends))), ()
    input_ids, mask = left_padded(batch, tokenizer.pad_token_id, model.device)
    with _greedy(model, tokenizer, tokens, ends) as settings:
        generated = model.generate(
            generation_config=settings,
            input_ids=input_ids,
            attention_mask=mask,
            synced_gpus=_in_step(model),  # go on until every rank has finished
            stopping_criteria=StoppingCriteriaList([_Stop(tokenizer, stop, input_ids.shape[1])] if stop else []),
        )
    texts: list[str] = tokenizer.batch_decode(generated[:, input_ids.shape[1] :], skip_special_tokens=True)
    return [_before(text, stop) for text in texts]


def _before(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the stop texts."""
    return text[: min((place for each in stop if (place := text.find(each)) >= 0), default=len(text))]


class _Stop(StoppingCriteria):
    """Ends each row of a batch as soon as what was generated for it holds a stop text."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], begin: int) -> None:
        self._tokenizer, self._stop, self._begin = tokenizer, stop, begin
        # A token is a byte or more, a character four at most.
        self._reach = 4 * max(map(len, stop)) + 4

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        last = input_ids[:, max(self._begin, input_ids.shape[1] - self._reach) :]
        texts = self._tokenizer.batch_decode(last)  # with special tokens, whose texts may be some to stop at
        return torch.tensor([any(each in text for each in self._stop) for text in texts], device=input_ids.device)


@contextmanager
def _greedy(model: Any, tokenizer: Any, tokens: int, ends: Sequence[int] = ()) -> Iterator[GenerationConfig]:
    """While this is open the model generates greedily: of its own generation settings only the end ids count.

    They are put aside as a whole, for `generate` fills from them whatever a configuration that it is given leaves
    open: minimum lengths, suppressed tokens, stop strings, several sequences.
    """
    owner = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = owner.generation_config
    owner.generation_config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=sorted({*_end_ids(before, tokenizer), *ends}),
        pad_token_id=tokenizer.pad_token_id,
    )
    try:
        yield owner.generation_config
    finally:
        owner.generation_config = before


def _end_ids(settings: GenerationConfig, tokenizer: Any) -> list[int]:
    own = settings.eos_token_id
    known = own if isinstance(own, list) else [own]
    return sorted({tokenizer.eos_token_id, *(one for one in known if one is not None)})


def over_ranks(
    model: Any,
    items: list[Item],
    size: int,
    work: Callable[[list[Item]], list[Result]],
    length: Callable[[Item], int] | None = None,
) -> list[Result]:
    """`work` over batches of `size` items, shared out over the ranks; one result per item, in order, on every rank.

    length: as of `batches`, where items of several lengths cannot be padded to one.
    A batch for which there is not enough memory is gone through in halves, unless the ranks forward in step.
    """
    dealt = list(batches(items, size, length))
    step = work if _in_step(model) else _InParts(work)
    mine = []
    for turn in range(-(-len(dealt) // world_size())):
        # A rank that has run out of batches repeats the last one, uncounted, to stay in step.
        index = turn * world_size() + rank()
        mine.append(step(dealt[min(index, len(dealt) - 1)]))
    shares = [mine]
    if world_size() > 1:
        shares = [[] for _ in range(world_size())]
        distributed.all_gather_object(shares, mine)
    return [result for i in range(len(dealt)) for result in shares[i % world_size()][i // world_size()]]


def _in_step(model: Any) -> bool:
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
        with torch.no_grad():
            yield
    finally:
        model.train(training)
