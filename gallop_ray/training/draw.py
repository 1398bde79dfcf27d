"""Which training examples a run scores, and in which portions their gradients are summed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gallop_ray.sparse.scoring import generator_of
from gallop_ray.spec.configuration import selection_ratios
from gallop_ray.spec.method import MaskMethodSpec
from gallop_ray.training.batches import batches
from gallop_ray.training.context import RunContext


@dataclass(frozen=True)
class SelectionSample:
    """Training examples by position, in the order drawn, divided into the rungs of a ladder.

    ends: how many examples are drawn up to the end of each rung; asked: the rung that the run scores. The sums of a
    rung always continue those of the rung below, so they are the same bits whether those were stored or just computed.
    """

    order: list[int]
    ends: tuple[int, ...]
    asked: int = 0
    first_batch: bool = False

    def rung(self, index: int) -> list[int]:
        """The positions of the examples that a rung adds."""
        return sorted(self.order[self.ends[index - 1] if index else 0 : self.ends[index]])

    def begins_like(self, ends: tuple[int, ...], rung: int) -> bool:
        """Whether a ladder with these ends is the same up to and including this rung."""
        return self.ends[: rung + 1] == ends[: rung + 1]


def draw(context: RunContext, spec: MaskMethodSpec) -> SelectionSample:
    """The examples whose mean gradient a method scores.

    The ladder has a rung for each selection ratio of the method in its sweep, or only the run's own where those are a
    continuous range.
    """
    if spec.evidence == "flow":  # of no examples, so that all seeds share its sums; the one here is not looked at
        return SelectionSample([0], (1,), first_batch=True)
    sweep, examples = context.resident.sweep, len(context.resident.train)
    ratio: float | None = getattr(spec, "selection_ratio", None)
    if ratio is None:
        batch = next(batches(range(examples), context.training.batch_size, context.seed))
        if getattr(spec, "first", "batch") == "micro_batch":
            # As the sweep asks for: a run takes smaller ones after out of memory, and would train other entries.
            batch = batch[: sweep.training.micro_batch_size]
        return SelectionSample(batch, (len(batch),), first_batch=True)
    own = share_of(examples, ratio)
    known = [each for each in sweep.methods if (each.name, each.type) == (spec.name, spec.type)]
    ends = rungs(selection_ratios(sweep, known[0]), examples) if known else ()
    # H g of more examples has another g: it does not continue that of fewer.
    if own not in ends or spec.evidence == "products":
        ends = (own,)
    return SelectionSample(permutation(examples, context.seed), ends, ends.index(own))


def rungs(ratios: Sequence[float | None], examples: int) -> tuple[int, ...]:
    """The numbers of examples that these selection ratios draw, ascending."""
    return tuple(sorted({share_of(examples, ratio) for ratio in ratios if ratio is not None}))


def share_of(examples: int, ratio: float) -> int:
    """How many examples a selection ratio draws: at least one."""
    return max(1, round(ratio * examples))


def permutation(examples: int, seed: int) -> list[int]:
    """The seed's order of the training examples for selection; a smaller ratio draws a prefix of it.

    Not the order of the batches: a run of less than an epoch would score exactly the examples that it trains on.
    """
    order: list[int] = torch.randperm(examples, generator=generator_of(seed, "selection")).tolist()
    return order
