"""predictions.jsonl: prompt, reference, answer and what was read from it, the base model's beside it."""

import json
from pathlib import Path

import pytest

from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.predictions import read_predictions, write_predictions
from gallop_ray.tasks.accuracy import Generated
from gallop_ray.tasks.answers import is_right, read_answer
from gallop_ray.tasks.examples import Example, free, reasoned
from gallop_ray.tasks.predictions import predictions, prompts_of
from gallop_ray.tasks.settings import EvaluationSettings
from tests.training import tiny

QUIZ = Example("which?", "", ("it is answer1", "it is answer2"), ("answer1", "answer2"), 0)
SUM = reasoned("how many?", "", "3 + 4 = 7. The answer is 7.", 7.0)
TEXT = free("say it", "", "so it is")


def said(example, *texts):
    read = [] if example.kind == "text" else [read_answer(text, example) for text in texts]
    return Generated([is_right(value, example) for value in read], list(texts), read)


@pytest.mark.parametrize(
    ("example", "text", "reference", "read", "right"),
    [
        (QUIZ, "I say answer2.", "answer2", "answer2", False),
        (QUIZ, "no idea", "answer1", None, False),
        (SUM, "7 it is", "3 + 4 = 7. The answer is 7.", 7.0, True),
        (TEXT, "so it is", "so it is", None, None),
    ],
)
def test_what_was_said_and_read(example, text, reference, read, right):
    generated = said(example, text)
    (found,) = predictions("t", [example], {"likelihood": "1", "generated": [0.25]}, generated, ["asked"])
    assert found == {
        "task": "t",
        "example": 0,
        "prompt": "asked",
        "reference": reference if example is not QUIZ else "answer1",
        "output": text,
        "read": read,
        "right": right,
        "measured": {"likelihood": 1.0, "generated": 0.25},
    }


def test_nothing_was_generated():
    (found,) = predictions("t", [QUIZ, QUIZ], {"likelihood": "01"}, None, ["first alone"])
    assert (found["output"], found["read"], found["right"], found["measured"]) == (
        None,
        None,
        None,
        {"likelihood": 0.0},
    )


def test_prompts_are_what_the_model_is_asked_and_nothing_else():
    _, tokenizer = tiny.of_pocket_vocabulary()
    asked = free("max 3 7 2 9", "", "9")
    settings = EvaluationSettings(prompt="{instruction} =", max_length=32, batch_size=1)
    (prompt,) = prompts_of([asked], tokenizer, settings)
    assert prompt == "max 3 7 2 9 ="
    (cut,) = prompts_of([asked], tokenizer, EvaluationSettings(prompt="{instruction} =", max_length=3, batch_size=1))
    assert len(tokenizer(cut, add_special_tokens=False)["input_ids"]) == 3


def test_the_base_models_answers_stand_beside(tmp_path: Path):
    base, tuned = tmp_path / "base.jsonl", tmp_path / "tuned.jsonl"
    one, other = (predictions("t", [QUIZ, QUIZ], {"likelihood": w}, said(QUIZ, *t), ["a", "b"])
                  for w, t in (("10", ("answer1", "?")), ("01", ("?", "answer1"))))  # fmt: skip
    write_predictions(base, one[:1])
    write_predictions(tuned, other, base)
    first, second = read_predictions(tuned)
    assert (first["output"], first["base_output"], first["base_right"]) == ("?", "answer1", True)
    assert first["base_measured"] == {"likelihood": 1.0}
    assert second == other[1], "the base model's file has no such example"
    assert read_predictions(tmp_path / "none.jsonl") == []


def test_damaged_lines_are_left_out(tmp_path: Path, caplog):
    path = tmp_path / "said.jsonl"
    whole = json.dumps(predictions("t", [QUIZ], {"likelihood": "1"}, None, ["a"])[0])
    path.write_text(f'{whole}\n{{"task"\n{{"other": 1}}\n{whole}')
    assert len(read_predictions(path)) == 1
    assert "said.jsonl" in caplog.text


def test_a_runs_rounds_are_read_together(tmp_path: Path):
    run = SweepFolder(tmp_path).run("gallop-1", 0)
    for task in ("max", "min"):
        run.round(task).path.mkdir(parents=True)
        (run.round(task).path / "spec.json").write_text("{}")
        said_of_it = predictions("range", [QUIZ], {"likelihood": "1"}, None, ["a"])
        run.round(task).write_predictions(said_of_it, tmp_path / "none.jsonl")
    assert [each["task"] for each in run.predictions()] == ["max/range", "min/range"]
