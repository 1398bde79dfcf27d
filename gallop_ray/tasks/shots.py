"""Solved examples before each question."""

from collections.abc import Sequence
from dataclasses import replace

from gallop_ray.tasks.examples import Example, Message, shuffled

_BETWEEN = "\n\n"


def with_shots(examples: Sequence[Example], train: Sequence[Example], count: int, seed: str) -> list[Example]:
    """The examples with the same `count` training examples before each; one that is asked itself is replaced.

    As lm-evaluation-harness writes them: question and answer, with a blank line between two of them. Raises ValueError
    where there are too few, or where plain text has no question.
    """
    drawn = shuffled(train, seed)[: count + 1]
    if len({one.question for one in drawn}) <= count:
        raise ValueError(f"few_shot: {count} needs more than {count} different training examples, and there are fewer")
    if any(one.kind == "plain" for one in (*examples[:1], *drawn[:1])):
        raise ValueError("few_shot is not for plain text, which has no questions")
    return [_shown([each for each in drawn if each.question != one.question][:count], one) for one in examples]


def _shown(shots: Sequence[Example], example: Example) -> Example:
    if example.messages:
        return replace(example, messages=_turns(shots, example))
    solved = _BETWEEN.join(_solved(each) for each in shots)
    return replace(example, instruction=f"{solved}{_BETWEEN}{example.instruction}")


def _solved(shot: Example) -> str:
    if shot.joint is not None:
        return f"{shot.instruction}{shot.input}{shot.joint}{shot.answer}"
    return "\n".join(part for part in (shot.instruction, shot.input, shot.answer) if part)


def _turns(shots: Sequence[Example], example: Example) -> tuple[Message, ...]:
    """The shots' turns after the system message, without those of their own; they are read, and not learnt."""
    head = [each for each in example.messages if each.role in ("system", "developer")]
    shown = [turn for shot in shots for turn in shot.messages if turn.role not in ("system", "developer")]
    before = [replace(turn, learnt=False) for turn in shown]
    return (*head, *before, *(each for each in example.messages if each not in head))
