import json

import pytest
import torch
from transformers import LlamaForCausalLM

from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.encode import IGNORED
from gallop_ray.tasks.text import load_text, load_validation_text, text_loss
from gallop_ray.training.pocket import pocket_config, pocket_tokenizer


def sweep(model="other", max_length=24, **evaluation):
    return Sweep.model_validate(
        {
            "name": "tiny",
            "model": {"name": model},
            "data": {"root": "generated", "train": "second"},
            "methods": [{"type": "gallop"}],
            "training": {"max_length": max_length},
            "evaluation": evaluation,
        }
    )


def untrained():
    torch.manual_seed(1)
    return LlamaForCausalLM(pocket_config()), pocket_tokenizer()


def write(folder, *texts):
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts) + "\n")
    return str(path)


def slow_text_loss(model, items):
    """One forward pass a token, without padding."""
    losses = []
    for item in items:
        for i in range(1, len(item.input_ids)):
            if item.labels[i] != IGNORED:
                with torch.no_grad():
                    logits = model(torch.tensor([item.input_ids[:i]])).logits[0, -1].double()
                losses.append(-logits.log_softmax(-1)[item.labels[i]].item())
    return sum(losses) / len(losses)


@pytest.mark.slow
def test_the_loss_is_the_mean_over_all_tokens_together(tmp_path):
    model, tokenizer = untrained()
    path = write(tmp_path, "", "a", "max of 3", "a longer text that is cut after some tokens", "ab")
    items = load_text(sweep(text=path), tokenizer)
    assert sorted(len(item.input_ids) for item in items) == [2, 5, 24]
    assert text_loss(model, items, tokenizer.pad_token_id) == pytest.approx(slow_text_loss(model, items), rel=1e-5)
    answers = load_text(sweep("pocket", text_examples=7), tokenizer)
    assert len(answers) == 7
    assert {sum(label != IGNORED for label in item.labels) for item in answers} == {2}
    assert text_loss(model, answers, tokenizer.pad_token_id) == pytest.approx(slow_text_loss(model, answers), rel=1e-5)


def test_only_the_pocket_model_has_text_unless_it_is_asked_for(tmp_path):
    model, tokenizer = untrained()
    assert text_loss(model, load_text(sweep(), tokenizer), 0) is None
    assert load_text(sweep("pocket", text=None), tokenizer) == []
    assert len(load_text(sweep("pocket"), tokenizer)) == 64
    assert len(load_text(sweep(text=write(tmp_path, *["max 3 7"] * 9), text_examples=4), tokenizer)) == 4


def test_a_text_may_have_any_characters(tmp_path):
    path = tmp_path / "text.jsonl"
    texts = ["max 3\u20287", "min\x852 9"]
    path.write_text("\ufeff" + "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts))
    assert len(load_text(sweep(text=str(path)), pocket_tokenizer())) == 2


def losses_on_rank(asked):
    model, tokenizer = untrained()
    # Long texts, so that there are several batches for the ranks to share.
    return text_loss(model, load_text(asked, tokenizer), tokenizer.pad_token_id)


@pytest.mark.parametrize("count", [1, 40])
def test_every_rank_has_the_loss_of_one_rank(ranks, tmp_path, count):
    path = write(tmp_path, *("some words and more " * (3 + i % 20) for i in range(count)))
    asked = sweep(max_length=200, text=path)
    assert ranks(3)(losses_on_rank, asked) == [losses_on_rank(asked)] * 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"text": "fine"}\n{', r"text.jsonl:2: not a JSON object"),
        ('\n{"words": "fine"}', r"text.jsonl:2: text missing"),
        ('{"text": "a"}', r"text.jsonl has no text of two tokens"),
        ("", r"evaluation.text: .*text.jsonl:1: the file is empty"),
        ('\n{"text": "caf\udce9"}', r"text.jsonl:2: not UTF-8"),
        ('{"text": "\\ud83d"}', r"text.jsonl:1: text has half of a character"),
    ],
)
def test_text_that_cannot_be_used_is_named(tmp_path, lines, message):
    path = tmp_path / "text.jsonl"
    path.write_text(lines, errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        load_text(sweep(text=str(path)), pocket_tokenizer())
    with pytest.raises(ValueError, match=r"nowhere.jsonl cannot be read: No such file"):
        load_text(sweep(text=str(tmp_path / "nowhere.jsonl")), pocket_tokenizer())


def test_a_search_goes_by_other_texts_than_those_that_are_reported(tmp_path):
    _, tokenizer = untrained()
    path = write(tmp_path, *(f"text {i}" for i in range(10)))

    def taken(model="other", objective="val_text_loss", **evaluation):
        asked = sweep(model, **evaluation)
        asked = asked.model_copy(update={"objective": asked.objective.model_copy(update={"metric": objective})})
        return [[one.input_ids for one in load(asked, tokenizer)] for load in (load_text, load_validation_text)]

    reported, validation = taken(text=path, text_examples=4)
    assert (len(reported), len(validation)) == (4, 4)
    assert not [each for each in validation if each in reported]
    assert taken(objective="val_id_accuracy", text=path)[1] == []
    with pytest.raises(ValueError, match=r"has no more than the 10 texts .* val_text_loss goes by others"):
        taken(text=path, text_examples=10)
    reported, validation = taken("pocket", text_examples=7)
    assert (len(reported), len(validation)) == (7, 7)
    assert not [each for each in validation if each in reported]
