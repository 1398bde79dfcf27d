"""Whether the base model can do the tasks on which forgetting is measured: who guesses has nothing to forget."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from scipy.special import bdtrc

from gallop_ray.analysis.answers import base_recorded
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import EndedRun
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.values import numbers

LEVEL = 0.05


@dataclass(frozen=True)
class AtChance:
    """A task that the base model does not get right more often than by guessing.

    right, examples: of validation and test together, for either alone may be too few to tell.
    p: the probability of so many right answers or more, each being right with the chance of `level`.
    """

    task: str
    right: int
    examples: int
    level: float
    p: float

    def __str__(self) -> str:
        return (
            f"{self.task}: forgetting cannot be measured here (the base model has {self.right} of "
            f"{self.examples} examples right, chance is {100 * self.level:.1f} %; exact binomial test, "
            f"p = {self.p:.2g})"
        )


def at_chance(folder: SweepFolder, sweep: Sweep) -> list[AtChance]:
    """The OOD tasks that the base model does by guessing; none before it was measured."""
    tasks = dict.fromkeys(task for each in sweep.data.rounds for task in each.ood)
    return [found for task in tasks for found in _tested(folder, sweep, task) if found.p >= LEVEL]


def _tested(folder: SweepFolder, sweep: Sweep, task: str) -> Iterator[AtChance]:
    base, chance = folder.base() or {}, folder.chance().get(task)
    ways = base.get(task, {}).get("validation", {})
    if chance is None or next(iter(ways), None) != "likelihood":
        return
    recorded = base_recorded(folder, sweep).items()
    tests = next((splits.get("test", {}) for name, splits in recorded if f"/{name}".endswith(f"/{task}")), {})
    tested = numbers(tests.get("likelihood", ""))
    right, examples = round(ways["likelihood"] * chance.examples + sum(tested)), chance.examples + len(tested)
    yield AtChance(task, right, examples, chance.level, p_above(right, examples, chance.level))


@dataclass(frozen=True)
class AboveChance:
    """The OOD tasks that the base model does better than by guessing: what it can do there, and what guessing gives.

    base, level: by task, test accuracy and chance. Of several rounds there are none.
    """

    base: Mapping[str, float]
    level: Mapping[str, float]

    def lost(self, run: EndedRun) -> float | None:
        """The share of what the base model can do beyond guessing that a run has lost; None where it is unknown.

        max(0, (base - tuned) / (base - chance)) of the means over these tasks. 1: it guesses now.
        """
        tuned = [run.value(f"tasks_{task}_test_likelihood") for task in self.base]
        known = [value for value in tuned if value is not None]
        beyond = sum(self.base.values()) - sum(self.level.values())
        if not known or len(known) < len(tuned) or beyond <= 0:
            return None
        return max(0.0, (sum(self.base.values()) - sum(known)) / beyond)


def above_chance(folder: SweepFolder, sweep: Sweep) -> AboveChance:
    """From the base model's measurements; no tasks before they are there."""
    if len(sweep.data.rounds) > 1:
        return AboveChance({}, {})
    tested = [found for task in sweep.data.ood for found in _tested(folder, sweep, task) if found.p < LEVEL]
    base = {each.task: (folder.base() or {})[each.task]["test"]["likelihood"] for each in tested}
    return AboveChance(base, {each.task: each.level for each in tested})


def p_above(right: int, examples: int, level: float) -> float:
    """The probability of so many right answers or more by guessing (exact binomial test)."""
    return float(bdtrc(right - 1, examples, level)) if right else 1.0
