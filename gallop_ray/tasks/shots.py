"""Solved examples before each question."""

from collections.abc import Sequence
from dataclasses import replace

from gallop_ray.tasks.examples import BETWEEN, Example, Message, shuffled


def with_shots(examples: Sequence[Example], train: Sequence[Example], count: int, seed: str) -> list[Example]:
    """The examples with the same `count` training examples before each; one that is asked itself is replaced.

    As lm-evaluation-harness writes them: question and answer, with a blank line between two of them; of examples that
    data.prompt words, each is worded so. Raises ValueError where there are too few, where plain text has no question,
    or where some are conversations and others not.
    """
    drawn = shuffled(train, seed)[: count + 1]
    if len({one.question for one in drawn}) <= count:
        raise ValueError(f"few_shot: {count} needs more than {count} different training examples, and there are fewer")
    if any(one.kind == "plain" for one in (*examples[:1], *drawn[:1])):
        raise ValueError("few_shot is not for plain text, which has no questions")
    if len({bool(one.messages) for one in (*examples, *drawn)}) > 1:
        raise ValueError("few_shot: some examples are conversations and others texts; make two tasks of them")
    return [_shown([each for each in drawn if each.question != one.question][:count], one) for one in examples]


def _shown(shots: Sequence[Example], example: Example) -> Example:
    if example.messages:
        return replace(example, messages=_turns(shots, example))
    if example.joint is None:
        return replace(example, shots=tuple(shots))
    solved = "".join(f"{each.instruction}{each.input}{each.joint}{each.answer}{BETWEEN}" for each in shots)
    return replace(example, instruction=f"{solved}{example.instruction}")


def _turns(shots: Sequence[Example], example: Example) -> tuple[Message, ...]:
    """The shots' turns after the system message, without those of their own; they are read, and not learnt."""
    head = [each for each in example.messages if each.role in ("system", "developer")]
    shown = [turn for shot in shots for turn in shot.messages if turn.role not in ("system", "developer")]
    before = [replace(turn, learnt=False) for turn in shown]
    return (*head, *before, *(each for each in example.messages if each not in head))
