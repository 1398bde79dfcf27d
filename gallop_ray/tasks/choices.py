"""Choices by likelihood: how likely a model holds each option of an example, and which it chooses by that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gallop_ray.spec.measures import NORMALIZED, Normalize
from gallop_ray.tasks.accuracy import EvaluationSettings, evaluating, over_ranks
from gallop_ray.tasks.encode import encode_options
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.padding import last_logits, left_padded, reads_padded


@dataclass(frozen=True)
class _Row:
    """A sequence to run, and the options whose tokens, all of one length, are scored at its last positions."""

    example: int
    ids: list[int]
    tails: dict[int, list[int]]


def by_likelihood(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    settings: EvaluationSettings,
    normalize: Normalize = "characters",
) -> dict[str, list[bool]]:
    """For each example, whether the right option is chosen; by way, the one that counts first.

    Of examples whose prompts data.prompt makes there is one way: the right option must have strictly the highest
    log-probability, summed over its tokens. Of others (a `joint` between prompt and answer) the ways are those of
    lm-evaluation-harness, and `normalize` says which counts; of options that are equal the first is chosen, as there.

    Every example has options. `model` is a transformers causal language model or a wrapper around one. Equal on every
    rank, and whatever their number.
    """
    sums = option_scores(model, tokenizer, examples, settings)
    if any(one.joint is None for one in examples):
        each = zip(sums, examples, strict=True)
        return {"likelihood": [_strictly_best(values, one.label) for values, one in each]}
    ways = {name: _chosen(sums, examples, rule) for name, rule in _RULES.items() if name in _ALWAYS}
    counts = NORMALIZED[normalize]
    if counts == "acc_unconditional":
        alone = option_scores(model, tokenizer, examples, settings, conditional=False)
        less = [[one - other for one, other in zip(*pair, strict=True)] for pair in zip(sums, alone, strict=True)]
        ways[counts] = _chosen(less, examples, _RULES["acc"])
    elif counts not in ways:
        ways[counts] = _chosen(sums, examples, _RULES[counts])
    return {"likelihood": ways[counts], **ways}


Rule = Callable[[float, str], float]
"""What an option counts for, from the sum of its log-probabilities and its text."""
_RULES: dict[str, Rule] = {
    "acc": lambda value, text: value,
    "acc_norm": lambda value, text: value / len(text),
    "acc_bytes": lambda value, text: value / len(text.encode("utf-8")),
}
_ALWAYS = ("acc", "acc_norm")


def _chosen(sums: Sequence[Sequence[float]], examples: Sequence[Example], rule: Rule) -> list[bool]:
    """Whether the first of the options that count for most is the right one."""
    found = []
    for values, one in zip(sums, examples, strict=True):
        worth = [rule(value, text) for value, text in zip(values, one.options, strict=True)]
        found.append(worth.index(max(worth)) == one.label)
    return found


def option_scores(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    settings: EvaluationSettings,
    conditional: bool = True,
) -> list[list[float]]:
    """Of each example the log-probability of each option after the prompt, summed over its tokens.

    Without a `joint` the end of the sequence is one of them, as in training, so that an option that another one
    continues can win; it is left out where the options differ in their last token alone, which decides, and which alone
    is counted then. With a joint they are the option's own tokens.

    conditional: else after the beginning of a sequence alone, or its end where the tokenizer has no beginning.
    """
    make = _rows if conditional else _rows_alone
    rows = [row for i, example in enumerate(examples) for row in make(i, example, tokenizer, settings)]
    rows.sort(key=lambda row: len(row.ids))
    pad_id = tokenizer.pad_token_id
    with evaluating(model):
        padded = reads_padded(model, [row.ids for row in rows], pad_id)
        found = over_ranks(
            model,
            rows,
            settings.batch_size,
            lambda batch: _score(model, batch, pad_id),
            length=None if padded else lambda row: len(row.ids),
        )
    scores = [[0.0] * len(example.options) for example in examples]
    for row, values in zip(rows, found, strict=True):
        for option, value in values.items():
            scores[row.example][option] = value
    return scores


def _rows(index: int, example: Example, tokenizer: Any, settings: EvaluationSettings) -> list[_Row]:
    encoded = encode_options(example, tokenizer, settings.prompt, settings.max_length)
    shared = _common_prefix(encoded.options)
    if all(len(option) == shared + 1 for option in encoded.options):
        # Options that differ in their last token only are all read from one position of one sequence: none continues
        # another, and their ends would take a sequence for each. What they share weighs where sums are divided.
        first = 0 if example.joint is not None else shared
        tails = {i: option[first:] for i, option in enumerate(encoded.options)}
        return [_Row(index, encoded.prompt + encoded.options[0][:shared], tails)]
    whole = example.joint is not None
    answers = [option if whole else encoded.ended(i) for i, option in enumerate(encoded.options)]
    return [_Row(index, encoded.prompt + answer[:-1], {i: answer}) for i, answer in enumerate(answers)]


def _rows_alone(index: int, example: Example, tokenizer: Any, settings: EvaluationSettings) -> list[_Row]:
    """As lm-evaluation-harness asks for what is likely after an empty text."""
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    texts = [f"{example.joint or ''}{option}" for option in example.options]
    found = []
    for i, option in enumerate(tokenizer(texts, add_special_tokens=False)["input_ids"]):
        tail = option[1:] if option[0] == begin else option
        found.append(_Row(index, [begin, *tail[:-1]], {i: tail}))
    return found


def _common_prefix(options: Sequence[Sequence[int]]) -> int:
    for position, tokens in enumerate(zip(*options, strict=False)):
        if len(set(tokens)) > 1:
            return position
    return min(map(len, options))


def _score(model: Any, batch: list[_Row], pad_id: int) -> list[dict[int, float]]:
    """The summed log-probability of each option of each row."""
    lengths = [len(next(iter(row.tails.values()))) for row in batch]
    logits = last_logits(model, *left_padded([row.ids for row in batch], pad_id, model.device), max(lengths))
    return [_tail_scores(one[-length:], row.tails) for one, length, row in zip(logits, lengths, batch, strict=True)]


def _tail_scores(logits: Tensor, tails: dict[int, list[int]]) -> dict[int, float]:
    """Log-probability of each tail, from the (length, V) logits that predict it."""
    tokens = torch.tensor(list(tails.values()), device=logits.device)
    scores = logits.float().log_softmax(-1).gather(1, tokens.T).sum(0)
    return dict(zip(tails, scores.tolist(), strict=True))


def _strictly_best(values: Sequence[float], label: int) -> bool:
    return all(values[label] > value for i, value in enumerate(values) if i != label)
