"""What a task is made of: examples with answer options, or with a number for an answer, in three splits."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

T = TypeVar("T")


@dataclass(frozen=True)
class Example:
    """One question with its answer options, or with the number that answers it.

    `options` are full answer texts, as the model is trained to say them; `keys` are their short forms, looked for in
    generated text ("answer3" in "the correct answer is answer3"); `label` is the index of the right one. An example
    without options has no keys, a `number` that is right, and one text that leads up to it (see `reasoned`). `place` is
    the file and line that it was read from, for messages; empty where there is none.
    """

    instruction: str
    input: str
    options: tuple[str, ...]
    keys: tuple[str, ...]
    label: int
    number: float | None = None
    place: str = field(default="", compare=False, repr=False)

    @property
    def answer(self) -> str:
        """The text the model is trained to say."""
        return self.options[self.label]

    @property
    def question(self) -> tuple[str, str]:
        """What is asked, whatever its line breaks and blanks: examples that share it are the same to a learner."""
        return " ".join(self.instruction.split()), " ".join(self.input.split())


def reasoned(instruction: str, text: str, answer: str, number: float, place: str = "") -> Example:
    """An example without options: `answer` says how one comes to the number."""
    return Example(instruction, text, (answer,), (), 0, number, place)


@dataclass(frozen=True)
class TaskData:
    """The examples of a task. A split that was not asked for is empty.

    What is held out of a split shares no question with the rest; splits that are given may share some.
    """

    name: str
    train: list[Example] = field(default_factory=list)
    validation: list[Example] = field(default_factory=list)
    test: list[Example] = field(default_factory=list)


def shuffled(items: Sequence[T], seed: str) -> list[T]:
    """A copy of `items` in an order that depends on the seed text alone, the same on every machine."""
    return random.Random(seed).sample(items, len(items))
