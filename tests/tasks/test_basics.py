"""The tasks and the text that come with the package: enough examples, one right answer each, nothing twice."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from gallop_ray.preflight.proposals import propose
from gallop_ray.spec.basics import BASICS, basics_source
from gallop_ray.spec.data import DataSpec, ModelSpec
from gallop_ray.tasks.basics import basics_table, basics_texts
from gallop_ray.tasks.load import load_task
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.training.models import load_model
from tests.training import tiny


@pytest.mark.parametrize("name", BASICS)
def test_each_has_different_questions_with_one_right_answer(name: str) -> None:
    rows = [row for _, row in basics_table(name).rows]
    assert len(rows) == len({row["question"] for row in rows}) >= 90
    for row in rows:
        assert len({*row["choices"]}) == 4
        assert 0 <= row["label"] < 4
    places = [row["label"] for row in rows]
    assert max(map(places.count, range(4))) < 0.4 * len(rows), "no place is right too often"
    assert basics_table(name).rows == basics_table(name).rows


def test_answers_are_right() -> None:
    def answer(name: str, question: str) -> str:
        return next(r["choices"][r["label"]] for _, r in basics_table(name).rows if r["question"] == question)

    assert answer("capitals", "What is the capital of France?") == "Paris"
    assert answer("opposites", "What is the opposite of hot?") == "cold"
    assert answer("kinds", "What kind of thing does the word violin name?") == "a musical instrument"
    assert answer("counting", "Which number comes next: 9, 10, 11?") == "12"
    assert answer("sums", "What is 7 plus 5?") == "12"


def test_as_other_tasks_they_have_a_validation_and_a_test_set() -> None:
    data = DataSpec.model_validate(
        {"root": "generated", "tasks": {"kinds": basics_source("kinds")}, "train": "range", "ood": ["kinds"]}
    )
    task = load_task("kinds", data, ("validation", "test"))
    assert min(len(task.validation), len(task.test)) > 10
    assert not {one.instruction for one in task.validation} & {one.instruction for one in task.test}
    assert {one.kind for one in task.test} == {"choice"}


def test_one_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValidationError, match=r"must be one of basics:capitals, .*did you mean `capitals`"):
        DataSpec.model_validate({"tasks": {"a": "basics:capital"}, "train": "a"})


def test_texts_are_english_sentences_and_always_the_same() -> None:
    assert basics_texts() == basics_texts()
    assert len({*basics_texts()}) > 100
    assert all(text.endswith(".") and len(text) > 100 for text in basics_texts())


@pytest.mark.slow
def test_proposed_is_what_the_base_model_can_do(tmp_path: Path) -> None:
    """The pocket model knows max; one that was never trained guesses."""
    (tmp_path / "text.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 30)
    tasks = {"text": str(tmp_path / "text.jsonl")}
    asked = {"root": "generated", "tasks": tasks, "train": "second", "ood": ["max", "text"]}
    data = DataSpec.model_validate(asked)
    settings = EvaluationSettings(data.prompt, 32, 16)
    known, text = propose(*load_model(ModelSpec(name="pocket")), data, settings)
    unknown, _ = propose(*tiny.of_pocket_vocabulary(), data, settings)
    assert (known.above, unknown.above, text.above) == (True, False, None)
    assert known.why.endswith("of 24 right, chance is 10 %")
    assert unknown.why.endswith("there is nothing to forget")
