"""Whether the base model can do the tasks on which forgetting is measured: who guesses has nothing to forget."""

from collections.abc import Iterator
from dataclasses import dataclass

from scipy.special import bdtrc

from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.schema import Sweep

LEVEL = 0.05


@dataclass(frozen=True)
class AtChance:
    """A task whose validation examples the base model does not get right more often than by guessing.

    p: the probability of so many right answers or more, each being right with the chance of `level`.
    """

    task: str
    right: int
    examples: int
    level: float
    p: float

    def __str__(self) -> str:
        return (
            f"{self.task} is at chance: forgetting cannot be measured here (the base model has {self.right} of "
            f"{self.examples} validation examples right, chance is {100 * self.level:.1f} %; exact binomial test, "
            f"p = {self.p:.2g})"
        )


def at_chance(folder: SweepFolder, sweep: Sweep) -> list[AtChance]:
    """The OOD tasks that the base model does by guessing; none before it was measured."""
    tasks = dict.fromkeys(task for each in sweep.data.rounds for task in each.ood)
    return [found for task in tasks for found in _tested(folder, task) if found.p >= LEVEL]


def _tested(folder: SweepFolder, task: str) -> Iterator[AtChance]:
    base, chance = folder.base() or {}, folder.chance().get(task)
    ways = base.get(task, {}).get("validation", {})
    way = next(iter(ways), None)
    if chance is not None and way == "likelihood":
        right = round(ways[way] * chance.examples)
        yield AtChance(task, right, chance.examples, chance.level, p_above(right, chance.examples, chance.level))


def p_above(right: int, examples: int, level: float) -> float:
    """The probability of so many right answers or more by guessing (exact binomial test)."""
    return float(bdtrc(right - 1, examples, level)) if right else 1.0
