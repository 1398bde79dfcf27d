"""Continuations in one row with their prompt: the same numbers as of each text alone, for every family of models."""

import math
import random
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model

from gallop_ray.tasks import branches, passes
from gallop_ray.tasks.accuracy import Generation, generated
from gallop_ray.tasks.branches import Row, log_probabilities, rows_of
from gallop_ray.tasks.padding import batches
from gallop_ray.tasks.passes import answered
from gallop_ray.testing.model import traces
from gallop_ray.training.pocket import pocket_tokenizer
from tests.families import FAMILIES, make_model

pytestmark = pytest.mark.slow

QUESTIONS = [
    ([5, 6, 7, 8], {"a": [9, 10, 11], "b": [9, 10, 12, 13], "c": [14, 15], "d": [9, 10]}),
    ([5, 6], {"a": [20, 21], "b": [22, 23, 24]}),
    ([30, 31, 32, 33, 34, 35, 36], {"a": [5], "b": [6], "c": [7]}),
    ([40] * 30, {"a": [41, 42, 43], "b": [44, 45, 46]}),
]
ALONE = {"bloom", "mamba"}
"""Families that take no such mask, or whose state runs through all columns."""


def slow(model: Any) -> list[dict[str, list[float]]]:
    """One text at a time."""
    found = []
    for prompt, asked in QUESTIONS:
        values = {}
        for name, tokens in asked.items():
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *tokens]])).logits[0].log_softmax(-1)
            values[name] = [float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(tokens)]
        found.append(values)
    return found


def branched_passes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each batch of rows has branches; filled while a model is asked."""
    seen: list[bool] = []
    run = passes.row_logits

    def row_logits(model: Any, rows: list[Row], pad_id: int) -> Any:
        seen.append(any(row.branched for row in rows))
        return run(model, rows, pad_id)

    monkeypatch.setattr(passes, "row_logits", row_logits)
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_the_same_of_a_continuation_in_a_shared_row_as_alone(family, monkeypatch):
    model, seen = make_model(family).eval(), branched_passes(monkeypatch)
    expected = slow(model)
    for size in (1, 16):
        found = answered(model, QUESTIONS, 1, size, log_probabilities)
        for one, other in zip(found, expected, strict=True):
            for name, values in other.items():
                assert one[name] == pytest.approx(values, abs=2e-5)
    assert any(seen) == (family not in ALONE)


def test_a_window_of_attention_that_rows_exceed_ends_sharing(monkeypatch):
    model, seen = make_model("gemma3_text", sliding_window=8).eval(), branched_passes(monkeypatch)
    expected = slow(model)
    assert answered(model, QUESTIONS, 1, 4, log_probabilities)[3]["b"] == pytest.approx(expected[3]["b"], abs=2e-5)
    assert not any(seen)
    monkeypatch.setattr(branches, "window", lambda model: math.inf)  # it shows in what the model says, too
    found = answered(model, QUESTIONS, 1, 4, log_probabilities)
    assert found[3]["b"] == pytest.approx(expected[3]["b"], abs=2e-5)
    assert not any(seen)


def test_a_wrapper_that_cannot_take_the_mask_is_asked_text_by_text(monkeypatch):
    model = get_peft_model(make_model("llama"), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")).eval()
    seen = branched_passes(monkeypatch)
    apart = [(prompt, {name: tokens}) for prompt, asked in QUESTIONS for name, tokens in asked.items()]
    expected = [value for each in answered(model, apart, 1, 1, log_probabilities) for value in each.values()]
    found = [value for each in answered(model, QUESTIONS, 1, 4, log_probabilities) for value in each.values()]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=2e-5)
    assert not any(seen)


def test_the_output_layer_multiplies_all_rows_of_a_batch_at_once_whatever_is_asked_of_them():
    model = make_model("llama").eval().requires_grad_(False)
    before, strides = traces(model), []
    watch = model.lm_head.register_forward_hook(
        lambda _, args, output: strides.append((args[0].shape, args[0].stride()))
    )
    answered(model, QUESTIONS, 1, 4, log_probabilities)
    generated(model, pocket_tokenizer(), [(prompt, ()) for prompt, _ in QUESTIONS], Generation(3), 4)
    watch.remove()
    assert max(shape[0] for shape, _ in strides) == 4
    for (_, count, width), stride in strides:
        assert stride == (count * width, width, 1)
    assert traces(model) == before


def test_a_row_runs_each_token_once_and_sees_what_leads_up_to_it():
    prompt, asked = QUESTIONS[0]
    row = Row.of(prompt, asked)
    assert row.ids == [5, 6, 7, 8, 9, 10, 12, 14]
    assert row.positions() == [0, 1, 2, 3, 4, 5, 6, 4]
    assert [row.ids[place] for place in row.seen()[-1].nonzero().view(-1)] == [5, 6, 7, 8, 14]
    assert (row.trunk, row.kept, row.branched) == (7, 5, True)
    assert Row.of(*QUESTIONS[2]).ids == QUESTIONS[2][0], "of one token each there is nothing to run but the prompt"


def test_branches_are_run_where_they_are_cheaper():
    long, short = list(range(100)), [1]
    endings = {name: [name] * 1500 for name in (200, 201)}
    assert [row.branched for row in rows_of(long, {1: [5, 6], 2: [7, 8]}, branches=True)] == [True]
    assert [row.branched for row in rows_of(short, endings, branches=True)] == [False, False]
    assert sorted(len(row.reads) for row in rows_of(*QUESTIONS[0], branches=False)) == [1, 3]


def test_batches_hold_every_row_once_and_cost_no_more_than_rows_in_equal_portions():
    draw = random.Random(0)
    for size, tokens in ((1, None), (8, None), (64, 2048), (300, 100)):
        lengths = [draw.choice((7, 30, 31, 400)) + draw.randrange(20) for _ in range(200)]
        found = batches(lengths, size, tokens)
        assert sorted(place for each in found for place in each) == list(range(200))
        assert max(map(len, found)) <= size
        padded = [len(each) * max(lengths[i] for i in each) for each in found]
        if tokens:
            fits = zip(padded, found, strict=True)
            assert all(total <= tokens or len(each) == 1 for total, each in fits)
        if not tokens:
            order = sorted(lengths)
            portions = [order[i : i + size] for i in range(0, 200, size)]
            plain = sum(64 + len(each) * max(each) for each in portions)
            assert sum(padded) + 64 * len(found) <= plain
    assert len(batches([10, 100], 2)) == 2
    assert len(batches([10, 100], 2, passes=16)) == 1, "padding costs less than as many passes more"
    lengths = [3, 5, 3, 5, 5]
    assert batches(lengths, 2, equal=True) in ([[0, 2], [1, 3], [4]], [[0, 2], [1], [3, 4]])
