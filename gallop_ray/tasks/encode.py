"""From examples to tokens, and the loss of an answer. Training and evaluation build their tokens here."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gallop_ray.spec.tasks import Learn
from gallop_ray.tasks.boundary import meet, prompt_alone
from gallop_ray.tasks.chat import chat_end, chat_text
from gallop_ray.tasks.conversation import asked_text, tokens_of
from gallop_ray.tasks.examples import BETWEEN, Example
from gallop_ray.tasks.token_loss import token_losses

CHAT = "chat"
IGNORED = -100
_FIELDS = re.compile(r"(\{instruction\}|\{input\})")


class TooLong(ValueError):
    """An answer that leaves no room for a prompt in max_length."""


@dataclass(frozen=True)
class EncodedOptions:
    """Token ids of a prompt, of each of its answer options, and of what ends an answer.

    The end is the end of the sequence, or what a chat template writes after an assistant's turn.
    """

    prompt: list[int]
    options: list[list[int]]
    end: list[int]
    cut: int = 0
    """How many tokens the prompt has lost at its left."""

    def ended(self, option: int) -> list[int]:
        """An answer option as it is trained, and as its likelihood is measured: with its end."""
        return [*self.options[option], *self.end]


@dataclass(frozen=True)
class Encoded:
    """Token ids of prompt and answer, and labels of the same length that are IGNORED on the prompt."""

    input_ids: list[int]
    labels: list[int]
    cut: int = 0
    """How many tokens of the example were left out."""

    @property
    def answer_tokens(self) -> int:
        """How many tokens the loss is of."""
        return len(self.labels) - self.labels.count(IGNORED)


@lru_cache(maxsize=1 << 15)
def encode_options(example: Example, tokenizer: Any, prompt: str, max_length: int) -> EncodedOptions:
    """The tokens of a prompt, the same for every option, and of each option after it, as they are in the whole text.

    A prompt that does not leave room for the longest option is cut from the left (after a beginning-of-sequence
    token). Raises ValueError where an option alone does not fit in `max_length` tokens, or has no tokens.

    Remembered, for every run is measured on the same examples: do not write into the result.
    """
    return _encoded(example, tokenizer, prompt, max_length)


def _encoded(example: Example, tokenizer: Any, prompt: str, max_length: int) -> EncodedOptions:
    ids, options = meet(_prompt_text(example, tokenizer, prompt), example.options, tokenizer, _plain(example, prompt))
    if not all(options) or not all(example.options):
        raise ValueError(
            f"{_at(example)}an answer option of {example.instruction[:80]!r} is empty; every option needs some text"
        )
    for place, (text, tokens) in enumerate(zip(example.options, options, strict=True)):
        if (first := options.index(tokens)) < place:
            raise ValueError(
                f"{_at(example)}the model's tokenizer cannot tell the options {example.options[first]!r} and {text!r} "
                "apart, so that neither can be right; write them with tokens that it has, or take another model"
            )
    end = [tokenizer.eos_token_id] if _plain(example, prompt) else chat_end(tokenizer)
    longest = max(map(len, options)) + len(end)
    if longest >= max_length:
        raise TooLong(no_room(example, longest, max_length))
    cut = _cut_left(_checked(ids, example, prompt), max_length - longest, tokenizer)
    return EncodedOptions(cut, options, end, len(ids) - len(cut))


def no_room(example: Example, tokens: int, max_length: int) -> str:
    """What is said of an example whose longest option with its end has so many tokens that no prompt fits before it."""
    said = f"{_at(example)}the answer {example.answer[:80]!r} of {tokens} tokens leaves no room in {max_length} tokens"
    return f"{said}; raise max_length to {tokens + 1} or more, or shorten the answer"


def _at(example: Example) -> str:
    return f"{example.place}: " if example.place else ""


@contextmanager
def _placed(example: Example) -> Iterator[None]:
    """Whatever is wrong with an example begins with where it stands."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{_at(example)}{error}") from error


def encode_prompt(example: Example, tokenizer: Any, prompt: str, max_length: int) -> list[int]:
    """The token ids of a prompt to generate from.

    It leaves room for the options, as in training; without options it may have all of `max_length`, so that nothing
    about the right answer, not even its length, has a say in it. Remembered, as `encode_options`.
    """
    return _asked_tokens(example, tokenizer, prompt, max_length)[0]


def is_cut(example: Example, tokenizer: Any, prompt: str, max_length: int) -> bool:
    """Whether the prompt has lost tokens at its left."""
    return _asked_tokens(example, tokenizer, prompt, max_length)[1] > 0


@lru_cache(maxsize=1 << 15)
def _asked_tokens(example: Example, tokenizer: Any, prompt: str, max_length: int) -> tuple[list[int], int]:
    if example.kind == "choice":
        encoded = encode_options(example, tokenizer, prompt, max_length)
        return encoded.prompt, encoded.cut
    ids = prompt_alone(_prompt_text(example, tokenizer, prompt), tokenizer, _plain(example, prompt))
    kept = _cut_left(_checked(ids, example, prompt), max_length, tokenizer)
    return kept, len(ids) - len(kept)


def encode(example: Example, tokenizer: Any, prompt: str, max_length: int, learn: Learn = "all") -> Encoded:
    """What is learnt of an example, in at most `max_length` tokens; errors as in `encode_options`.

    Of a question the answer and its end; of a conversation all turns of the assistant, or the `last`; of plain text all
    tokens. What is too long loses its left, plain text its right. `prompt` is a template with {instruction} and
    {input}, or `chat` for the tokenizer's chat template.
    """
    if example.messages:
        return _conversation(example, tokenizer, max_length, learn)
    if example.kind == "plain":
        ids = [*tokenizer(example.answer)["input_ids"], tokenizer.eos_token_id]
        ids = ids[:-1] if ids[-2:] == [tokenizer.eos_token_id] * 2 else ids
        return Encoded(ids[:max_length], [IGNORED, *ids[1:max_length]], max(0, len(ids) - max_length))
    encoded = _encoded(example, tokenizer, prompt, max_length)
    answer = encoded.ended(example.label)
    return Encoded(encoded.prompt + answer, [IGNORED] * len(encoded.prompt) + answer, encoded.cut)


def _conversation(example: Example, tokenizer: Any, max_length: int, learn: Learn) -> Encoded:
    with _placed(example):
        turns = tokens_of(example, tokenizer, learn == "last")
    if (answer := len(turns.ids) - turns.last) >= max_length:
        raise TooLong(no_room(example, answer, max_length))
    ids = _cut_left(turns.ids, max_length, tokenizer)
    cut = len(turns.ids) - len(ids)
    labels = [token if own else IGNORED for token, own in zip(turns.ids[cut:], turns.own[cut:], strict=True)]
    return Encoded(ids, [IGNORED, *labels[1:]], cut)


def collate(items: Sequence[Encoded], pad_id: int) -> dict[str, Tensor]:
    """Right-padded int64 tensors input_ids, attention_mask and labels, each (batch, longest)."""
    return {
        "input_ids": _padded([item.input_ids for item in items], pad_id),
        "attention_mask": _padded([[1] * len(item.input_ids) for item in items], 0),
        "labels": _padded([item.labels for item in items], IGNORED),
    }


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy there. The host does not wait for a GPU, as it would if it copied from memory that may be paged."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def answer_positions(labels: Tensor) -> Tensor:
    """The positions (P,) after which some example of the batch has an answer token; at least one position."""
    found = (labels[:, 1:] != IGNORED).any(0).nonzero().view(-1)
    return found if found.numel() else found.new_zeros(1)


def answer_loss(logits: Tensor, labels: Tensor, positions: Tensor | None = None) -> Tensor:
    """Mean answer-token cross-entropy of each example: (B, P, V) logits at `positions`, (B, T) labels to (B,) float32.

    Without positions the logits are of all T tokens. An example without answer tokens has loss 0. Labels and positions
    may be in main memory; the host then looks at them without waiting for the GPU that computes the logits.
    """
    per_token, chosen = answer_token_losses(logits, labels, positions)
    return per_token.sum(1) / chosen.sum(1).clamp(min=1)


def answer_token_losses(logits: Tensor, labels: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The answer tokens' cross-entropies, 0 elsewhere, and which they are: (B, P) float32 and bool; see answer_loss."""
    if positions is None:
        positions, logits = torch.arange(labels.shape[1] - 1, device=labels.device), logits[:, :-1]
    targets = labels[:, positions + 1]
    chosen = targets != IGNORED
    kept = logits.flatten(0, 1)
    if not bool(chosen.all()):  # to choose is to copy
        kept = kept[_there(chosen.view(-1).nonzero().view(-1), logits)]
    losses, chosen = token_losses(kept, _there(targets[chosen], logits)), _there(chosen, logits)
    return torch.zeros(targets.shape, dtype=torch.float32, device=logits.device).masked_scatter(chosen, losses), chosen


def _there(tensor: Tensor, other: Tensor) -> Tensor:
    return tensor if tensor.device == other.device else on_device(tensor, other.device)


def _checked(ids: list[int], example: Example, prompt: str) -> list[int]:
    if not ids:
        wrong = f"{_at(example)}the prompt template {prompt!r} gives an empty prompt"
        raise ValueError(f"{wrong}; it needs {{instruction}} or some text")
    return ids


def ends_as_chat(example: Example, prompt: str) -> bool:
    """Whether an example's answer ends with the chat template's marker, and not with the end of the sequence."""
    return not _plain(example, prompt)


def _plain(example: Example, prompt: str) -> bool:
    """Whether the prompt is text that the tokenizer begins as any other; a chat template begins its own."""
    return not example.messages and (prompt != CHAT or example.joint is not None)


def _prompt_text(example: Example, tokenizer: Any, prompt: str) -> str:
    if example.messages:
        with _placed(example):
            return asked_text(example, tokenizer)
    if example.joint is not None:
        return _asked(example) + example.joint
    if prompt == CHAT:
        return chat_text(_asked(example), tokenizer, [(_asked(each), each.answer) for each in example.shots])
    solved = "".join(f"{_worded(each, prompt)}{each.answer}{BETWEEN}" for each in example.shots)
    return solved + _worded(example, prompt)


def _asked(example: Example) -> str:
    return "\n".join(part for part in (example.instruction, example.input) if part)


def _worded(example: Example, prompt: str) -> str:
    parts = {"{instruction}": example.instruction, "{input}": example.input}
    # Not str.format: instructions and templates may hold other braces.
    return "".join(parts.get(piece, piece) for piece in _FIELDS.split(prompt))


def _cut_left(ids: list[int], room: int, tokenizer: Any) -> list[int]:
    if len(ids) <= room:
        return ids
    if room > 1 and ids[0] == tokenizer.bos_token_id:
        return [ids[0], *ids[1 - room :]]
    return ids[-room:]


def _padded(rows: list[list[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])
