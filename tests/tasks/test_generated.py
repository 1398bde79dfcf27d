import pytest

from gallop_ray.tasks.examples import SPLITS
from gallop_ray.tasks.generated import GENERATED_TASKS, SOURCE_TASKS, TARGET_TASKS, generated_examples

ANSWERS = {
    "max": "9",
    "min": "2",
    "first": "3",
    "last": "9",
    "third": "2",
    "second": "7",
    "range": "7",
    "runnerup": "7",
}


def test_targets_are_held_out_of_the_sources():
    assert not set(SOURCE_TASKS) & set(TARGET_TASKS)


@pytest.mark.parametrize("task", GENERATED_TASKS)
def test_answers_are_right(task):
    found = [one for split in SPLITS for one in generated_examples(task, split, 0)]
    by_text = {one.instruction: one.answer for one in found}
    assert by_text[f"{task} 3 7 2 9"] == ANSWERS[task]
    assert len(by_text) == len(found) == 10_000


def test_splits_keep_their_examples_whatever_the_seed():
    for split in SPLITS:
        one, other = generated_examples("range", split, 0), generated_examples("range", split, 1)
        assert one == generated_examples("range", split, 0)
        assert one != other
        assert set(one) == set(other)
