"""Decoding of several prompts at once, beside whole texts one by one; and where an answer is decided."""

import itertools
from dataclasses import replace

import pytest
import torch

from gallop_ray.tasks import accuracy, decoding, padding
from gallop_ray.tasks.accuracy import generated_texts
from gallop_ray.tasks.answers import is_decided, parse_answer
from gallop_ray.tasks.decoding import Together, beginning, decoded, decodes
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.padding import reads_padded
from gallop_ray.tasks.settings import EvaluationSettings
from tests.families import FAMILIES, make_model
from tests.tasks.test_accuracy import untrained

pytestmark = pytest.mark.slow

PROMPTS = [[5, 6, 7, 8, 9, 20], [5, 6, 7, 8, 30], [5, 6, 7, 8, 9, 10, 11, 12, 13], [5, 6, 7, 40, 41, 42]]
BY_TRANSFORMERS = {"mamba"}
"""Families that keep no cache of which rows can be taken out."""


def slow(model, prompt, tokens):
    said = []
    for _ in range(tokens):
        with torch.no_grad():
            said.append(int(model(torch.tensor([[*prompt, *said]])).logits[0, -1].argmax()))
    return said


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_decodes_many_prompts_as_it_does_each_alone(family):
    model = make_model(family).eval()
    with torch.no_grad():
        how = decodes(model, PROMPTS, 1)
        assert (how is None) == (family in BY_TRANSFORMERS)
        if how is None:
            return
        sizes = (None, 1, 2, 3) if how is Together.JOINED else (None,)
        expected = [slow(model, prompt, 5) for prompt in PROMPTS]
        for worth in (0, 1000):
            begun = beginning(model, PROMPTS, 5, worth)
            for size in sizes * 2:  # batches, which leave what they begin with as it is
                found = decoded(model, PROMPTS, 5, 1, lambda number, tokens: len(tokens) > number, begun, size)
                assert found == [said[: number + 1] for number, said in enumerate(expected)]


def test_the_common_beginning_of_prompts_is_run_once_and_what_is_decided_is_run_no_more():
    model, seen = make_model("llama").eval(), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    prompts = [[*range(5, 45), place, *[3] * place] for place in range(4)]
    with torch.no_grad():
        begun = beginning(model, prompts, 4)
        for batch in (prompts[:1], prompts):
            decoded(model, batch, 4, 1, lambda number, tokens: len(tokens) > number, begun)
    assert seen == [(1, 40), (1, 1), (4, 4), (3, 1), (2, 1), (1, 1)]


def test_the_noise_of_bfloat16_in_one_of_several_texts_is_not_taken_for_another_result(monkeypatch):
    model = make_model("llama").eval().bfloat16()
    tries = (lambda: reads_padded(model, PROMPTS * 2, 1), lambda: decodes(model, PROMPTS * 2, 1) is not None)
    for tried, (noisy, fine) in itertools.product(tries, [(0, True), (1, True), (4, True), (5, False)]):
        said = iter([False] * noisy + [True])
        for module in (padding, decoding):
            monkeypatch.setattr(module, "alike", lambda logits, others, dtype: next(said))  # noqa: B023
        with torch.no_grad():
            assert tried() == fine


@pytest.mark.parametrize(
    ("text", "keys", "stop", "over"),
    [
        ("it is answer1.", ("answer1", "answer2"), (), True),
        ("it is answer1", ("answer1", "answer2"), (), False),  # answer12, answer1b
        ("it is answer1\ufffd", ("answer1", "answer2"), (), False),  # half a letter
        ("it is", ("answer1", "answer2"), (), False),
        ("in York ", ("New York City", "York"), (), True),
        ("in New York ", ("New York City", "York"), (), False),
        ("in New York then", ("New York City", "York"), (), True),
        ("yes, b", ("yes", "yes, but"), (), False),
        ("yes, a", ("yes", "yes, but"), (), True),
        ("no\n", ("yes", "no"), ("no\n\n",), False),  # then nothing is left of it
        ("no\n", ("yes", "no"), ("\n\n",), True),
        ("no", (), (), False),
    ],
)
def test_an_answer_is_decided_where_nothing_that_follows_changes_it(text, keys, stop, over):
    assert is_decided(text, keys, stop) == over


def test_what_is_decided_stays_whatever_follows():
    keys, parts = ("a", "a b", "b c", "c a b"), ("a", "b", "c", " ", "x", ".")
    for text in map("".join, itertools.product(parts, repeat=4)):
        if is_decided(text, keys):
            for more in map("".join, itertools.product(parts, repeat=3)):
                assert parse_answer(text + more, keys) == parse_answer(text, keys)


def test_answers_that_end_early_are_read_as_whole_ones(monkeypatch):
    model, tokenizer = untrained()
    torch.manual_seed(0)
    texts = [tokenizer.decode(torch.randint(32, 127, (1,)).tolist()) for _ in range(40)]
    keys = tuple(dict.fromkeys(texts))[:20]
    examples = [Example("max 3 7 2 " * (i % 4) + texts[i], "", keys, keys, 0) for i in range(40)]
    settings = EvaluationSettings("{instruction}\n", max_length=96, batch_size=8, max_new_tokens=12)
    whole = generated_texts(model, tokenizer, examples, settings)
    for usual in (True, False):
        if not usual:  # transformers' own decoding
            monkeypatch.setattr(accuracy, "decodes", lambda model, prompts, pad_id: False)
            assert generated_texts(model, tokenizer, examples, settings) == whole
        found = generated_texts(model, tokenizer, examples, replace(settings, decided=True))
        assert [parse_answer(text, keys) for text in found] == [parse_answer(text, keys) for text in whole]
        assert all(text.startswith(one) for text, one in zip(whole, found, strict=True))
        assert sum(map(len, found)) < sum(map(len, whole))
