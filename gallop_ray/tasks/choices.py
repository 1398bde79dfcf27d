"""Choices by likelihood: how likely a model holds each option of an example, and which it chooses by that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gallop_ray.spec.measures import NORMALIZED, Normalize
from gallop_ray.tasks.branches import Asked, log_probabilities
from gallop_ray.tasks.encode import encode_options
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.passes import Prompted, answered
from gallop_ray.tasks.settings import EvaluationSettings


@dataclass(frozen=True)
class Chosen:
    """By way, the one that counts first, whether each example is answered right; and how far it is from the other.

    losses: as of `Held`. margins: by how much the right option counts for more than the best wrong one, in what decides
    (nats, or nats per character or byte); what is chosen is right above 0, and wrong below.
    """

    ways: dict[str, list[bool]]
    losses: list[float]
    margins: list[float]


def by_likelihood(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    settings: EvaluationSettings,
    normalize: Normalize = "characters",
) -> Chosen:
    """For each example, whether the right option is chosen.

    Of examples whose prompts data.prompt makes there is one way: the right option must have strictly the highest
    log-probability, summed over its tokens. Of others (a `joint` between prompt and answer) the ways are those of
    lm-evaluation-harness, and `normalize` says which counts; of options that are equal the first is chosen, as there.

    Every example has options. `model` is a transformers causal language model or a wrapper around one. Equal on every
    rank, and whatever their number.
    """
    held = held_likely(model, tokenizer, examples, settings)
    sums, labels = [each.sums for each in held], [one.label for one in examples]
    losses = [each.loss for each in held]
    if any(one.joint is None for one in examples):
        right = [_strictly_best(*each) for each in zip(sums, labels, strict=True)]
        return Chosen({"likelihood": right}, losses, _margins(sums, labels))
    counts = NORMALIZED[normalize]
    worth = {name: _worth(sums, examples, rule) for name, rule in _RULES.items() if name in (*_ALWAYS, counts)}
    if counts == "acc_unconditional":
        alone = _scores_alone(model, tokenizer, examples, settings)
        worth[counts] = [
            [one - other for one, other in zip(*pair, strict=True)] for pair in zip(sums, alone, strict=True)
        ]
    ways = {
        name: [values.index(max(values)) == label for values, label in zip(each, labels, strict=True)]
        for name, each in worth.items()
    }
    return Chosen({"likelihood": ways[counts], **ways}, losses, _margins(worth[counts], labels))


Rule = Callable[[float, str], float]
"""What an option counts for, from the sum of its log-probabilities and its text."""
_RULES: dict[str, Rule] = {
    "acc": lambda value, text: value,
    "acc_norm": lambda value, text: value / len(text),
    "acc_bytes": lambda value, text: value / len(text.encode("utf-8")),
}
_ALWAYS = ("acc", "acc_norm")


def _worth(sums: Sequence[Sequence[float]], examples: Sequence[Example], rule: Rule) -> list[list[float]]:
    pairs = zip(sums, examples, strict=True)
    return [[rule(value, text) for value, text in zip(values, one.options, strict=True)] for values, one in pairs]


def _margins(worth: Sequence[Sequence[float]], labels: Sequence[int]) -> list[float]:
    return [
        values[label] - max(value for i, value in enumerate(values) if i != label)
        for values, label in zip(worth, labels, strict=True)
    ]


@dataclass(frozen=True)
class Held:
    """How likely a model holds the options of one example, and what it loses with the right one."""

    sums: list[float]
    loss: float
    """The mean cross-entropy of the right answer's tokens and its end, in nats, as `example_losses` has it."""


def held_likely(model: Any, tokenizer: Any, examples: Sequence[Example], settings: EvaluationSettings) -> list[Held]:
    """Of each example the log-probability of each option after the prompt, summed over its tokens, and the loss.

    Without a `joint` the end of the sequence is one of them, as in training, so that an option that another one
    continues can win; it is left out where the options differ in their last token alone, which decides, and which alone
    is counted then. With a joint they are the option's own tokens. Collective, as all here.
    """
    questions = [_question(one, tokenizer, settings) for one in examples]
    found = answered(
        model, [one.prompted for one in questions], tokenizer.pad_token_id, settings.batch_size, log_probabilities
    )
    return [
        Held(
            [sum(values[i][one.counted :]) for i in range(one.options)],
            -sum(values[_ENDED]) / len(values[_ENDED]),
        )
        for one, values in zip(questions, found, strict=True)
    ]


def option_scores(
    model: Any, tokenizer: Any, examples: Sequence[Example], settings: EvaluationSettings
) -> list[list[float]]:
    """The sums of `held_likely`."""
    return [each.sums for each in held_likely(model, tokenizer, examples, settings)]


def _scores_alone(
    model: Any, tokenizer: Any, examples: Sequence[Example], settings: EvaluationSettings
) -> list[list[float]]:
    """As lm-evaluation-harness asks for what is likely after an empty text: the beginning of one, or its end."""
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    questions: list[Prompted] = []
    for one in examples:
        texts = [f"{one.joint or ''}{option}" for option in one.options]
        options = tokenizer(texts, add_special_tokens=False)["input_ids"]
        questions.append(([begin], {i: ids[1:] if ids[0] == begin else ids for i, ids in enumerate(options)}))
    found = answered(model, questions, tokenizer.pad_token_id, settings.batch_size, log_probabilities)
    return [[sum(values[i]) for i in range(len(values))] for values in found]


_ENDED = "the right answer with its end"


@dataclass(frozen=True)
class _Question:
    """A prompt with its options by number, and the right one with its end; from which token on options count."""

    prompted: Prompted
    options: int
    counted: int = 0


def _question(example: Example, tokenizer: Any, settings: EvaluationSettings) -> _Question:
    encoded, counted = encode_options(example, tokenizer, settings.prompt, settings.max_length), 0
    options = encoded.options
    shared = _common_prefix(options)
    if example.joint is None and all(len(option) == shared + 1 for option in options):
        # Options that differ in their last token only: none continues another, and their ends would take a branch each.
        counted = shared
    elif example.joint is None:
        options = [encoded.ended(i) for i in range(len(options))]
    asked: Asked = {**dict(enumerate(options)), _ENDED: encoded.ended(example.label)}
    return _Question((encoded.prompt, asked), len(options), counted)


def _common_prefix(options: Sequence[Sequence[int]]) -> int:
    for position, tokens in enumerate(zip(*options, strict=False)):
        if len(set(tokens)) > 1:
            return position
    return min(map(len, options))


def _strictly_best(values: Sequence[float], label: int) -> bool:
    return all(values[label] > value for i, value in enumerate(values) if i != label)
