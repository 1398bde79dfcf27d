"""Who continues at a rung. Pure decisions: what was measured there is all that they see.

`asha` is asynchronous successive halving with promotion (arXiv 1810.05934): the best 1/reduction of those that have
come to a rung continue, whenever there is a free slot. Nothing waits for a rung to fill.

`race` stops what is worse than the best at the same rung by a paired test on the losses of the same validation
examples. Its error is spent in equal parts over all looks, and at each look over all pairs of configurations: whatever
the dependence between them, a race of equal configurations stops one of them with at most this probability.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from gallop_ray.analysis.paired import p_of_differences


def promotable(
    values: Mapping[str, float], waiting: Collection[str], reduction: float, maximize: bool, least: int
) -> list[str]:
    """Those of `waiting` that are among the best 1/reduction of a rung, but at least so many, the best first.

    values: of all that have come to the rung, those that have gone on or ended included.
    """
    kept = max(least, int(len(values) / reduction))
    ranked = sorted(values, key=lambda key: (-values[key] if maximize else values[key], key))
    return [key for key in ranked[:kept] if key in waiting]


def place(values: Mapping[str, float], key: str, maximize: bool) -> int:
    """The place of one at a rung, from 1."""
    mine = values[key]
    return 1 + sum((other > mine) if maximize else (other < mine) for other in values.values())


def least_advanced(waiting: Mapping[str, int], begun: Sequence[str]) -> str | None:
    """Of those that wait, by the number of rungs climbed, who is next when all continue; the first begun of several."""
    return min(waiting, key=lambda key: (waiting[key], begun.index(key)), default=None)


@dataclass(frozen=True)
class AtRung:
    """What was measured of a configuration at a rung of steps: by task each example's loss, and their weighted mean."""

    key: str
    step: int
    loss: float
    losses: Mapping[str, Sequence[float]]


def allowance(significance: float, looks: int, configurations: int) -> float:
    """The largest p with which one comparison may stop a configuration, of a race with so many looks at each."""
    return significance / (looks * configurations * max(1, configurations - 1))


def worse_than_best(mine: AtRung, others: Sequence[AtRung], weights: Mapping[str, float], allowed: float) -> str | None:
    """Why one is to be stopped: it is worse than the best of the others that have come to the rung; None if not."""
    best = min(others, key=lambda each: (each.loss, each.key), default=mine)
    if best.loss >= mine.loss:
        return None
    p = p_of_differences(weights, {task: _minus(best.losses[task], mine.losses[task]) for task in weights})
    if p >= allowed:
        return None
    return (
        f"validation loss {mine.loss:.4f}, worse than {best.key}'s {best.loss:.4f} on the same examples (p = {p:.2g})"
    )


def above_median(mine: AtRung, others: Sequence[AtRung], after: int) -> str | None:
    """Why one is to be stopped: its loss is above the median of at least `after` others; None if not."""
    if len(others) < after or mine.loss <= (middle := median(each.loss for each in others)):
        return None
    return f"validation loss {mine.loss:.4f}; the median of {len(others)} others is {middle:.4f}"


def _minus(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(ones, others, strict=True)]
