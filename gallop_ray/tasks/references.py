"""Whether the outputs that a model is trained to say are read as the answers that they are meant to give."""

from collections.abc import Sequence
from dataclasses import dataclass

from gallop_ray.tasks.answers import is_right, read_answer
from gallop_ray.tasks.examples import Example

_SHOWN = 80  # characters of an output, its end where the answer is the last number


@dataclass(frozen=True)
class Misread:
    """How many of so many outputs are read as another answer, or as none; the first of them, and what to do."""

    wrong: int
    examples: int
    first: str
    fix: str

    def __str__(self) -> str:
        return f"{self.wrong} of {self.examples} outputs are read as another answer, {self.first}"


def misread(examples: Sequence[Example]) -> Misread | None:
    """The outputs that count as wrong by the rule that reads generated text; None where all are right.

    A model that repeats them word for word has an accuracy by generation below 1.
    """
    asked = [one for one in examples if one.kind in ("choice", "number")]
    wrong = [one for one in asked if not is_right(read_answer(one.answer, one), one)]
    if not wrong:
        return None
    example, options = wrong[0], wrong[0].number is None
    shown = example.answer[:_SHOWN] if options else example.answer[-_SHOWN:]
    place = f"{example.place}: " if example.place else ""
    fix = (
        "The first option in an output is its answer: name no other one before it"
        if options
        else "The last number in an output is its answer: end the output with it, and see that answer is that number"
    )
    first = f"as {place}{shown!r} is read as {_named(example)}"
    return Misread(len(wrong), len(examples), first, fix)


def _named(example: Example) -> str:
    read = read_answer(example.answer, example)
    if example.number is not None:
        return f"{'no number' if read is None else f'{read:g}'}, and answer is {example.number:g}"
    return f"{'no option' if read is None else example.keys[int(read)]}, and answer is {example.keys[example.label]}"
