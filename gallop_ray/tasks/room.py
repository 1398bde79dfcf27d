"""Answers that are too long for `training.max_length`, found before anything runs."""

from collections.abc import Iterable
from typing import Any

from gallop_ray.tasks.encode import no_room
from gallop_ray.tasks.examples import Example, TaskData


def too_long(tasks: Iterable[TaskData], tokenizer: Any, max_length: int) -> list[str]:
    """A line for each example whose answer leaves no room for a prompt, in the order of the data.

    Examples with options are measured in all splits. Of those with a number only what is trained on has to fit: the
    others are asked by their prompts alone.
    """
    examples = [one for task in tasks for one in _fitted(task)]
    texts = list(dict.fromkeys(text for one in examples for text in one.options))
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    tokens = dict(zip(texts, map(len, ids), strict=True))
    lengths = [max(tokens[text] for text in one.options) for one in examples]
    return [no_room(one, n, max_length) for one, n in zip(examples, lengths, strict=True) if max_length - n - 1 < 1]


def _fitted(task: TaskData) -> list[Example]:
    return [*task.train, *(one for one in (*task.validation, *task.test) if one.number is None)]
