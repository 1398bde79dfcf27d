"""Losses of texts: the cross-entropy of the tokens that are labelled, each example by itself."""

from collections.abc import Sequence
from typing import Any

from gallop_ray.tasks.accuracy import EvaluationSettings, evaluating, over_ranks
from gallop_ray.tasks.encode import IGNORED, Encoded, Learn, answer_positions, collate, encode
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.token_loss import token_losses

_TOKENS = 2048  # in a batch: there are logits of most of them


def example_losses(
    model: Any, tokenizer: Any, examples: Sequence[Example], settings: EvaluationSettings, learn: Learn = "all"
) -> list[float]:
    """The mean cross-entropy in nats of what is learnt of each example, as of an answer with its end.

    Collective; equal on every rank, and whatever their number.
    """
    items = [encode(one, tokenizer, settings.prompt, settings.max_length, learn) for one in examples]
    return [total / max(1, count) for total, count in loss_sums(model, items, tokenizer.pad_token_id)]


def loss_sums(model: Any, items: Sequence[Encoded], pad_id: int) -> list[tuple[float, int]]:
    """The summed cross-entropy of each item's labelled tokens, and their number. Collective, as above."""
    order = sorted(range(len(items)), key=lambda i: len(items[i].input_ids))
    size = max(1, _TOKENS // max((len(item.input_ids) for item in items), default=1))
    with evaluating(model):
        found = over_ranks(model, [items[i] for i in order], size, lambda batch: _sums(model, batch, pad_id))
    return [each for _, each in sorted(zip(order, found, strict=True))]


def _sums(model: Any, batch: list[Encoded], pad_id: int) -> list[tuple[float, int]]:
    inputs = {name: tensor.to(model.device) for name, tensor in collate(batch, pad_id).items()}
    labels = inputs.pop("labels")
    positions = answer_positions(labels)
    logits = model(**inputs, use_cache=False, logits_to_keep=positions).logits
    found = []
    for one, target in zip(logits, labels[:, positions + 1], strict=True):
        chosen = target != IGNORED
        found.append((float(token_losses(one[chosen], target[chosen]).double().sum()), int(chosen.sum())))
    return found
