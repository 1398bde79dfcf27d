"""Small digit tasks that need no network: an operator word and four digits, answered with one digit.

`max 3 7 2 9` is answered `9`. The pocket model is pre-trained on the source tasks; the target tasks look the same but
are new to it, so that fine-tuning on one of them makes it forget the sources.
"""

import itertools
from collections.abc import Callable

from gallop_ray.tasks.examples import Example, Split, shuffled

Digits = tuple[int, ...]

SOURCE_TASKS: dict[str, Callable[[Digits], int]] = {
    "max": max,
    "min": min,
    "first": lambda digits: digits[0],
    "last": lambda digits: digits[-1],
    "third": lambda digits: digits[2],
}
TARGET_TASKS: dict[str, Callable[[Digits], int]] = {
    "second": lambda digits: digits[1],
    "range": lambda digits: max(digits) - min(digits),
    "runnerup": lambda digits: sorted(digits)[-2],
}
GENERATED_TASKS = SOURCE_TASKS | TARGET_TASKS

_DIGIT_COUNT = 4
_HELD_OUT = 1000
_OPTIONS = tuple("0123456789")


def generated_examples(task: str, split: Split, split_seed: int) -> list[Example]:
    """All examples of a split: 8000 for training, 1000 for validation, 1000 for testing.

    Which digits belong to which split depends on the task alone, so that the pocket model has seen no validation or
    test example of any split_seed; split_seed orders the examples.
    """
    digits = shuffled(list(itertools.product(range(10), repeat=_DIGIT_COUNT)), task)
    parts = {
        "test": digits[:_HELD_OUT],
        "validation": digits[_HELD_OUT : 2 * _HELD_OUT],
        "train": digits[2 * _HELD_OUT :],
    }
    return [_example(task, one) for one in shuffled(parts[split], f"{task}/{split}/{split_seed}")]


def _example(task: str, digits: Digits) -> Example:
    instruction = " ".join([task, *map(str, digits)])
    return Example(instruction, "", _OPTIONS, _OPTIONS, GENERATED_TASKS[task](digits))
