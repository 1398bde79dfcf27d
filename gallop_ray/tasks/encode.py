"""From examples to tokens, and the loss of an answer. Training and evaluation build their tokens here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gallop_ray.tasks.boundary import meet, prompt_alone
from gallop_ray.tasks.chat import chat_end, chat_text
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.token_loss import token_losses

CHAT = "chat"
IGNORED = -100
_FIELDS = re.compile(r"(\{instruction\}|\{input\})")


@dataclass(frozen=True)
class EncodedOptions:
    """Token ids of a prompt, of each of its answer options, and of what ends an answer.

    The end is the end of the sequence, or what a chat template writes after an assistant's turn.
    """

    prompt: list[int]
    options: list[list[int]]
    end: list[int]

    def ended(self, option: int) -> list[int]:
        """An answer option as it is trained, and as its likelihood is measured: with its end."""
        return [*self.options[option], *self.end]


@dataclass(frozen=True)
class Encoded:
    """Token ids of prompt and answer, and labels of the same length that are IGNORED on the prompt."""

    input_ids: list[int]
    labels: list[int]

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
    ids, options = meet(_prompt_text(example, tokenizer, prompt), example.options, tokenizer, prompt != CHAT)
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
    end = chat_end(tokenizer) if prompt == CHAT else [tokenizer.eos_token_id]
    longest = max(map(len, options)) + len(end)
    if longest >= max_length:
        raise ValueError(no_room(example, longest, max_length))
    return EncodedOptions(_cut_left(_checked(ids, example, prompt), max_length - longest, tokenizer), options, end)


def no_room(example: Example, tokens: int, max_length: int) -> str:
    """What is said of an example whose longest option with its end has so many tokens that no prompt fits before it."""
    said = f"{_at(example)}the answer {example.answer[:80]!r} of {tokens} tokens leaves no room in {max_length} tokens"
    return f"{said}; raise max_length to {tokens + 1} or more, or shorten the answer"


def _at(example: Example) -> str:
    return f"{example.place}: " if example.place else ""


def encode_prompt(example: Example, tokenizer: Any, prompt: str, max_length: int) -> list[int]:
    """The token ids of a prompt to generate from.

    It leaves room for the options, as in training; without options it may have all of `max_length`, so that nothing
    about the right answer, not even its length, has a say in it.
    """
    if example.number is None:
        return encode_options(example, tokenizer, prompt, max_length).prompt
    ids = prompt_alone(_prompt_text(example, tokenizer, prompt), tokenizer, prompt != CHAT)
    return _cut_left(_checked(ids, example, prompt), max_length, tokenizer)


def encode(example: Example, tokenizer: Any, prompt: str, max_length: int) -> Encoded:
    """Prompt, answer and its end in at most `max_length` tokens; errors as in `encode_options`.

    `prompt` is a template with {instruction} and {input}, or `chat` for the tokenizer's chat template.
    """
    encoded = _encoded(example, tokenizer, prompt, max_length)
    answer = encoded.ended(example.label)
    return Encoded(encoded.prompt + answer, [IGNORED] * len(encoded.prompt) + answer)


def collate(items: Sequence[Encoded], pad_id: int) -> dict[str, Tensor]:
    """Right-padded int64 tensors input_ids, attention_mask and labels, each (batch, longest)."""
    return {
        "input_ids": _padded([item.input_ids for item in items], pad_id),
        "attention_mask": _padded([[1] * len(item.input_ids) for item in items], 0),
        "labels": _padded([item.labels for item in items], IGNORED),
    }


def answer_positions(labels: Tensor) -> Tensor:
    """The positions (P,) after which some example of the batch has an answer token; at least one position."""
    found = (labels[:, 1:] != IGNORED).any(0).nonzero().view(-1)
    return found if found.numel() else found.new_zeros(1)


def answer_loss(logits: Tensor, labels: Tensor, positions: Tensor | None = None) -> Tensor:
    """Mean answer-token cross-entropy of each example: (B, P, V) logits at `positions`, (B, T) labels to (B,) float32.

    Without positions the logits are of all T tokens. An example without answer tokens has loss 0.
    """
    if positions is None:
        positions, logits = torch.arange(labels.shape[1] - 1, device=labels.device), logits[:, :-1]
    targets = labels[:, positions + 1]
    chosen = targets != IGNORED
    # A mask copies what it lets through, which is worth it only where it leaves something out.
    kept = logits.flatten(0, 1) if bool(chosen.all()) else logits[chosen]
    losses = token_losses(kept, targets[chosen])
    per_token = torch.zeros(targets.shape, dtype=torch.float32, device=logits.device).masked_scatter(chosen, losses)
    return per_token.sum(1) / chosen.sum(1).clamp(min=1)


def _checked(ids: list[int], example: Example, prompt: str) -> list[int]:
    if not ids:
        wrong = f"{_at(example)}the prompt template {prompt!r} gives an empty prompt"
        raise ValueError(f"{wrong}; it needs {{instruction}} or some text")
    return ids


def _prompt_text(example: Example, tokenizer: Any, prompt: str) -> str:
    if prompt == CHAT:
        return chat_text("\n".join(part for part in (example.instruction, example.input) if part), tokenizer)
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
