"""Holding examples out of a split, so that no question is on both sides."""

from collections import Counter
from collections.abc import Sequence

from gallop_ray.tasks.examples import Example


def hold_out(examples: Sequence[Example], wanted: int, what: str, fix: str) -> tuple[list[Example], list[Example]]:
    """About so many of the examples, the first that fit, and the rest. Questions stay together.

    Raises ValueError where none or all would be held out; `fix` is the field to change.
    """
    if not 0 < wanted < len(examples):
        raise ValueError(
            f"{what} has {len(examples)} examples, too few to hold out the share that is asked for; add a split of its "
            f"own, or change {fix}"
        )
    held = _questions(examples, wanted)
    if held is None:
        return list(examples[:wanted]), list(examples[wanted:])
    return [one for one in examples if one.question in held], [one for one in examples if one.question not in held]


def _questions(examples: Sequence[Example], wanted: int) -> set[tuple[str, str]] | None:
    """The questions of about so many examples: the first that fit. One that is there several times goes as a whole.

    None where all examples ask the same, which no split can tell apart.
    """
    counts = Counter(one.question for one in examples)
    if len(counts) == 1:
        return None
    chosen: set[tuple[str, str]] = set()
    for question, count in counts.items():
        if count <= wanted:
            chosen.add(question)
            wanted -= count
    return chosen or {min(counts, key=counts.__getitem__)}
