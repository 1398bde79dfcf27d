import pytest

from gallop_ray.tasks.accuracy import Generated
from gallop_ray.tasks.answers import is_right, read_answer
from gallop_ray.tasks.examples import Example, reasoned
from gallop_ray.tasks.outputs import describe, summarize_outputs

QUIZ = Example("which?", "", ("it is answer1", "it is answer2"), ("answer1", "answer2"), 0)
CLAIM = Example("is it?", "", ("it is true", "it is false"), ("true", "false"), 0)
SUM = reasoned("how many?", "", "3 + 4 = 7. The answer is 7.", 7.0)


def said(example, *texts):
    """The examples of a test set, each the same, and what was generated for them."""
    read = [read_answer(text, example) for text in texts]
    return [example] * len(texts), Generated([is_right(value, example) for value in read], list(texts), read)


def described(train, **tasks):
    examples = {name: each for name, (each, _) in tasks.items()}
    return describe(examples, {name: generated for name, (_, generated) in tasks.items()}, train)


def test_memorized_are_wrong_answers_that_only_the_training_task_has():
    outputs = described(
        "quiz",
        quiz=said(QUIZ, "it is answer1", "it is answer2"),
        # right; wrong; memorized, twice; nothing; its own answer came, too
        claim=said(CLAIM, "true", "false", "it is answer2", "answer1", "", "answer1 is false"),
        sum=said(SUM, "7", "it is answer2", "8"),
    )
    assert "memorized" not in outputs["quiz"]
    assert {key: outputs["claim"][key] for key in ("wrong", "wrong_of_own_format", "memorized")} == {
        "wrong": 5,
        "wrong_of_own_format": 5,
        "memorized": 2,
    }
    assert outputs["claim"]["parseable"] == 3 / 6
    assert outputs["sum"]["parseable"] == pytest.approx(2 / 3)
    assert summarize_outputs(outputs) == pytest.approx(
        {"parseable_share": (1 + 3 / 6 + 2 / 3) / 3, "memorization": 3 / 7}
    )


def test_numbers_are_memorized_where_options_were_asked_for():
    outputs = described("sum", sum=said(SUM, "7"), claim=said(CLAIM, "The answer is 5.", "who knows", "2 is false"))
    assert outputs["claim"]["memorized"] == 1
    assert summarize_outputs(outputs)["memorization"] == pytest.approx(1 / 3)


def test_memorization_is_unknown_where_formats_are_the_same_or_nothing_is_wrong():
    same = described("quiz", quiz=said(QUIZ, "answer1"), other=said(QUIZ, "answer2", "nothing"))
    assert (same["other"]["wrong"], same["other"]["wrong_of_own_format"]) == (2, 0)
    right = described("quiz", quiz=said(QUIZ, "answer2"), claim=said(CLAIM, "true"))
    for outputs in (same, right, {}):
        assert summarize_outputs(outputs)["memorization"] is None
    assert summarize_outputs({})["parseable_share"] is None


def test_empty_generations_are_wrong_and_unreadable():
    outputs = described("quiz", quiz=said(QUIZ, "answer1"), claim=said(CLAIM, "", ""))
    assert (outputs["claim"]["parseable"], outputs["claim"]["frequent"]) == (0, [["", 2]])
    assert summarize_outputs(outputs) == {"parseable_share": 0.5, "memorization": 0.0}


def test_the_most_frequent_outputs_with_their_counts():
    texts = ["b", "a", "a", "x" * 300, "c", "d", "e", "f", "b", "a"]
    outputs = described("quiz", quiz=said(QUIZ, *texts))
    assert outputs["quiz"]["distinct"] == 7
    assert outputs["quiz"]["frequent"] == [["a", 3], ["b", 2], ["x" * 200, 1], ["c", 1], ["d", 1]]
    same = described("quiz", quiz=said(QUIZ, *["answer1"] * 4))
    assert (same["quiz"]["distinct"], same["quiz"]["frequent"]) == (1, [["answer1", 4]])
