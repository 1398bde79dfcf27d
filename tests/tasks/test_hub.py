import pytest

from gallop_ray.tasks.answers import last_number
from gallop_ray.tasks.hub import HUB_TASKS

CHOICES = {"text": ["Paris", "Rome", "Bonn"], "label": ["A", "B", "C"]}

ROWS = [
    ("arc_easy", {"id": "q1", "question": "Which?", "choices": CHOICES, "answerKey": "B"}, 3, "answer2"),
    (
        "arc_challenge",
        {"question": "Which?", "choices": {**CHOICES, "label": ["1", "2", "3"]}, "answerKey": "3"},
        3,
        "answer3",
    ),
    ("openbookqa", {"question_stem": "The sun is", "choices": CHOICES, "answerKey": "A"}, 3, "answer1"),
    ("boolq", {"question": "is it so", "passage": "It is not.", "answer": False}, 2, "no"),
    ("piqa", {"goal": "open a jar", "sol1": "turn", "sol2": "push", "label": 1}, 2, "answer2"),
    (
        "hellaswag",
        {
            **{"activity_label": "Golf", "ctx": "He swings. he", "ctx_a": "He swings.", "ctx_b": "he"},
            **{"endings": ["runs. [step] Stop.", "b", "c", "d"], "label": "3"},
        },
        4,
        "answer4",
    ),
    ("winogrande", {"sentence": "The _ fell.", "option1": "cup", "option2": "sky", "answer": "1"}, 2, "answer1"),
    (
        "siqa",
        {"context": "Al ran.", "question": "Why?", "answerA": "x", "answerB": "y", "answerC": "z", "label": "3"},
        3,
        "answer3",
    ),
]


@pytest.mark.parametrize(("task", "row", "options", "key"), ROWS)
def test_a_hub_row_becomes_an_example(task, row, options, key):
    example = HUB_TASKS[task].worded(row, "label")
    assert len(example.options) == len(example.keys) == options
    assert example.keys[example.label] == key
    assert example.answer == f"the right answer is {key}"
    shown = example.instruction + example.input
    texts = [value for value in row.values() if isinstance(value, str) and len(value) > 2]
    assert all(text in shown for text in texts)


@pytest.mark.parametrize(
    ("task", "prompt", "answer"),
    [
        ("arc_easy", "Question: Which?\nAnswer:", "Rome"),
        ("openbookqa", "The sun is", "Paris"),
        ("boolq", "It is not.\nQuestion: is it so?\nAnswer:", "no"),
        ("piqa", "Question: open a jar\nAnswer:", "push"),
        ("hellaswag", "Golf: He swings. He", "d"),
        ("siqa", "Q: Al ran. Why?\nA:", "z"),
    ],
)
def test_answers_with_texts_are_compared_by_them_as_the_harness_words_them(task, prompt, answer):
    row = next(row for name, row, *_ in ROWS if name == task)
    example = HUB_TASKS[task].worded(row, None)
    assert (example.instruction, example.answer, example.joint, example.keys) == (prompt, answer, " ", example.options)
    assert task != "hellaswag" or example.options[0] == "runs. Stop."


def test_a_gap_in_the_middle_is_filled_by_a_label():
    row = next(row for name, row, *_ in ROWS if name == "winogrande")
    assert HUB_TASKS["winogrande"].worded(row, None) == HUB_TASKS["winogrande"].worded(row, "label")


def test_gsm8k_is_answered_with_the_number_at_the_end_of_its_steps():
    row = {"question": "How much?", "answer": "He has 3*400=$<<3*400=1200>>1200.\n#### 1,200"}
    example = HUB_TASKS["gsm8k"].worded(row, None)
    assert (example.instruction, example.number, example.keys) == ("How much?", 1200, ())
    assert example.answer == "He has 3*400=$1200.\nThe answer is 1,200."
    assert last_number(example.answer) == 1200


def test_every_hub_task_has_a_row_here():
    assert {task for task, *_ in ROWS} | {"gsm8k"} == set(HUB_TASKS)
