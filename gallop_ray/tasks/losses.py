"""Losses of texts: the cross-entropy of the tokens that are labelled, each example by itself."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from gallop_ray.spec.tasks import Learn
from gallop_ray.tasks.encode import IGNORED, Encoded, answer_positions, collate, encode
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.padding import batches
from gallop_ray.tasks.passes import evaluating, over_ranks
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.tasks.token_loss import token_losses

_TOKENS = 2048  # in a batch: there are logits of most of them
_ROWS = 256
_kept = lru_cache(maxsize=1 << 13)(encode)  # every run is measured on the same examples


def example_losses(
    model: Any, tokenizer: Any, examples: Sequence[Example], settings: EvaluationSettings, learn: Learn = "all"
) -> list[float]:
    """The mean cross-entropy in nats of what is learnt of each example, as of an answer with its end.

    Collective; equal on every rank, and whatever their number.
    """
    items = [_kept(one, tokenizer, settings.prompt, settings.max_length, learn) for one in examples]
    return [total / max(1, count) for total, count in loss_sums(model, items, tokenizer.pad_token_id)]


def loss_sums(model: Any, items: Sequence[Encoded], pad_id: int) -> list[tuple[float, int]]:
    """The summed cross-entropy of each item's labelled tokens, and their number. Collective, as above."""
    dealt = batches([len(item.input_ids) for item in items], _ROWS, _TOKENS)
    with evaluating(model):
        return over_ranks(model, items, dealt, lambda batch: _sums(model, batch, pad_id))


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
