"""What a task is made of: examples of one kind, in three splits."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from gallop_ray.tasks.harness.task import HarnessTask

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
MEASURED: tuple[Split, ...] = ("validation", "test")

Kind = Literal["choice", "number", "text", "plain"]

BETWEEN = "\n\n"
"""What stands between two solved examples."""
T = TypeVar("T")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `more` is JSON of its other keys, such as tool_calls, as the template has them.

    learnt: whether a turn of the assistant is learnt, and not only read.
    """

    role: str
    content: str
    more: str = ""
    learnt: bool = True


@dataclass(frozen=True)
class Example:
    """One question with its answer options, with the number or the text that answers it; or plain text alone.

    `options` are full answer texts, as the model is trained to say them; `keys` are their short forms, looked for in
    generated text ("answer3" in "the correct answer is answer3"); `label` is the index of the right one. An example
    without options has no keys, a `number` that is right, and one text that leads up to it (see `reasoned`). `place` is
    the file and line that it was read from, for messages; empty where there is none.

    joint: what stands between prompt and answer, of an example whose prompt is its instruction and input as they are,
        whatever data.prompt says; None: data.prompt makes the prompt.
    messages: a whole conversation, whose last turn is the assistant's, the answer. Where it is given, `instruction`
        and `input` are no part of the prompt.
    tools: JSON of the tools that a chat template is given; empty for none.
    references: further right answers of free text.
    shots: solved examples that stand before it, each worded as it is.
    row: JSON of the row that it was made of, for measures of the user's own.
    """

    instruction: str
    input: str
    options: tuple[str, ...]
    keys: tuple[str, ...]
    label: int
    number: float | None = None
    joint: str | None = None
    messages: tuple[Message, ...] = ()
    tools: str = ""
    references: tuple[str, ...] = ()
    shots: tuple["Example", ...] = ()
    row: str = field(default="", compare=False, repr=False)
    place: str = field(default="", compare=False, repr=False)

    @property
    def answer(self) -> str:
        """The text the model is trained to say."""
        return self.options[self.label]

    @property
    def kind(self) -> Kind:
        """How it is answered: by one of several options, by a number, by any text; or not at all, as plain text is."""
        if self.number is not None:
            return "number"
        if len(self.options) > 1:
            return "choice"
        return "text" if self.instruction or self.input or self.messages else "plain"

    @property
    def question(self) -> tuple[str, str]:
        """What is asked, whatever its line breaks and blanks: examples that share it are the same to a learner."""
        if self.messages:
            asked = "\n".join(f"{each.role}: {each.content} {each.more}" for each in self.messages[:-1])
            return " ".join(asked.split()), " ".join(self.tools.split())
        if self.kind == "plain":
            return " ".join(self.answer.split()), ""
        return " ".join(self.instruction.split()), " ".join(self.input.split())


def reasoned(instruction: str, text: str, answer: str, number: float, place: str = "") -> Example:
    """An example without options: `answer` says how one comes to the number."""
    return Example(instruction, text, (answer,), (), 0, number, place=place)


def free(instruction: str, text: str, answer: str, place: str = "") -> Example:
    """An example that is answered by any text, of which `answer` is right; plain text without instruction and text."""
    return Example(instruction, text, (answer,), (), 0, place=place)


@dataclass(frozen=True)
class TaskData:
    """The examples of a task. A split that was not asked for is empty.

    What is held out of a split shares no question with the rest; splits that are given may share some.

    harness: of a task of lm-evaluation-harness, which asks and judges validation and test by itself.
    """

    name: str
    train: list[Example] = field(default_factory=list)
    validation: list[Example] = field(default_factory=list)
    test: list[Example] = field(default_factory=list)
    harness: "HarnessTask | None" = None

    @property
    def prompted(self) -> list[list[Example]]:
        """The splits whose examples are asked by prompts of ours: the training split, then those that are measured."""
        return [self.train] if self.harness is not None else [self.train, self.validation, self.test]


def shuffled(items: Sequence[T], seed: str) -> list[T]:
    """A copy of `items` in an order that depends on the seed text alone, the same on every machine."""
    return random.Random(seed).sample(items, len(items))
