"""Choices by likelihood, each way beside a plain reference: one option at a time, without padding, in float32."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from gallop_ray.tasks.choices import by_likelihood, option_scores
from gallop_ray.tasks.encode import encode, encode_options
from gallop_ray.tasks.examples import Example, free
from gallop_ray.tasks.losses import example_losses
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.testing.model import llama
from gallop_ray.training.pocket import pocket_config, pocket_tokenizer

pytestmark = pytest.mark.slow

SETTINGS = EvaluationSettings("{instruction}\n{input}\n", max_length=96, batch_size=4, max_new_tokens=4)
_TEXTS = (("3", "a longer text", "é"), ("seven", "no"), ("1", "2", "3"), ("x y", "x z"), ("12", "1", "123 and more"))


def questions(count: int) -> list[Example]:
    """Answers of one token and of many, as many bytes as characters and more; prompts of any length."""
    return [
        Example(f"Question: {'max 3 7 2 ' * (i % 7)}{i}?\nAnswer:", "", texts, texts, i % len(texts), joint=" ")
        for i, texts in enumerate(_TEXTS[i % len(_TEXTS)] for i in range(count))
    ]


def slow_sums(model: Any, prompt: list[int], options: list[list[int]]) -> list[float]:
    found = []
    for option in options:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + option])).logits[0].float().log_softmax(-1)
        start = len(prompt) - 1
        found.append(sum(logits[start + i, token].item() for i, token in enumerate(option)))
    return found


def slow_ways(model: Any, tokenizer: Any, examples: list[Example]) -> dict[str, list[bool]]:
    ways: dict[str, list[bool]] = {"acc": [], "acc_norm": [], "acc_bytes": [], "acc_unconditional": []}
    for one in examples:
        encoded = encode_options(one, tokenizer, SETTINGS.prompt, SETTINGS.max_length)
        alone = tokenizer([f" {text}" for text in one.options], add_special_tokens=False)["input_ids"]
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        sums, free_of = slow_sums(model, encoded.prompt, encoded.options), slow_sums(model, [begin], alone)
        worth = {
            "acc": sums,
            "acc_norm": [value / len(text) for value, text in zip(sums, one.options, strict=True)],
            "acc_bytes": [value / len(text.encode()) for value, text in zip(sums, one.options, strict=True)],
            "acc_unconditional": [value - other for value, other in zip(sums, free_of, strict=True)],
        }
        for way, values in worth.items():
            ways[way].append(max(range(len(values)), key=values.__getitem__) == one.label)
    return ways


def models() -> list[Any]:
    torch.manual_seed(5)
    tokenizer = pocket_tokenizer()
    return [LlamaForCausalLM(pocket_config()), llama(vocab_size=len(tokenizer))]


@pytest.mark.parametrize("place", [0, 1], ids=["pocket", "tiny"])
def test_every_way_equals_a_plain_reference_for_every_example(place: int) -> None:
    model, tokenizer, examples = models()[place], pocket_tokenizer(), questions(35)
    expected = slow_ways(model, tokenizer, examples)
    assert len({tuple(each) for each in expected.values()}) > 1
    for size in (1, 5, 64):
        settings = replace(SETTINGS, batch_size=size)
        found = by_likelihood(model, tokenizer, examples, settings).ways
        assert found == {"likelihood": expected["acc_norm"], **{way: expected[way] for way in ("acc", "acc_norm")}}
    assert list(found) == ["likelihood", "acc", "acc_norm"]
    for normalize, way in (("sum", "acc"), ("bytes", "acc_bytes"), ("unconditional", "acc_unconditional")):
        found = by_likelihood(model, tokenizer, examples, SETTINGS, normalize).ways
        assert found["likelihood"] == found[way] == expected[way]


def test_sums_are_of_the_options_own_tokens() -> None:
    """Without the end of the sequence, and whole where options differ in their last token alone."""
    model, tokenizer = models()[0], pocket_tokenizer()
    examples = questions(10)
    found = option_scores(model, tokenizer, examples, SETTINGS)
    for one, values in zip(examples, found, strict=True):
        encoded = encode_options(one, tokenizer, SETTINGS.prompt, SETTINGS.max_length)
        assert values == pytest.approx(slow_sums(model, encoded.prompt, encoded.options), abs=1e-4)


def test_of_equal_options_the_first_is_chosen_where_the_harness_does_so() -> None:
    model, tokenizer = models()[0], pocket_tokenizer()
    torch.nn.init.zeros_(model.lm_head.weight)  # every token is as likely as any other
    tied = [Example("max 3 7", "", ("7", "3"), ("7", "3"), label, joint=" ") for label in (0, 1)]
    assert by_likelihood(model, tokenizer, tied, SETTINGS).ways["acc"] == [True, False]
    without = [replace(one, joint=None) for one in tied]
    assert by_likelihood(model, tokenizer, without, SETTINGS).ways == {"likelihood": [False, False]}


def test_losses_are_those_of_training_one_by_one() -> None:
    model, tokenizer = models()[0], pocket_tokenizer()
    examples = [*questions(9), free("max 3 7", "", "any text 5 5"), free("", "", "plain text, 1 2 3")]
    expected = []
    for one in examples:
        encoded = encode(one, tokenizer, SETTINGS.prompt, SETTINGS.max_length)
        ids, labels = torch.tensor([encoded.input_ids]), torch.tensor([encoded.labels])
        with torch.no_grad():
            expected.append(float(model(input_ids=ids, labels=labels).loss))
    assert example_losses(model, tokenizer, examples, SETTINGS) == pytest.approx(expected, abs=1e-5)
