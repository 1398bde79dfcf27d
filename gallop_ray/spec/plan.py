"""How much work a sweep is, before anything runs."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from gallop_ray.spec.configuration import method_named, method_space, resolve
from gallop_ray.spec.method import MethodSpec
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.space import Range, extremes, grid_size
from gallop_ray.spec.training import TrainingSpec

_CONFIGURATIONS = 8
_MOST_AT_RANDOM = 10
_SMALLEST_POPULATION, _LARGEST_POPULATION, _GENERATIONS = 4, 50, 5


@dataclass(frozen=True)
class MethodPlan:
    """The work of one method. Steps are optimizer steps, None where the number of examples is unknown.

    Where batch size, epochs or steps are searched, `steps_per_run` is that of the longest run.
    """

    method: str
    configurations: int
    searched: int
    """Runs of the search: configurations times seeds."""
    confirmed: int
    """Runs of the confirmation."""
    steps_per_run: int | None
    learns_from: int | None = None
    """The first configuration, counted from 1, that is chosen by results; None where none is."""

    @property
    def runs(self) -> int:
        """Runs of the search and of the confirmation."""
        return self.searched + self.confirmed

    @property
    def steps(self) -> int | None:
        """Optimizer steps of all runs together, at most."""
        return None if self.steps_per_run is None else self.runs * self.steps_per_run


@dataclass(frozen=True)
class SweepPlan:
    """The work of a sweep, method by method."""

    methods: tuple[MethodPlan, ...]
    seeds: int

    @property
    def configurations(self) -> int:
        """Configurations of all methods."""
        return sum(method.configurations for method in self.methods)

    @property
    def runs(self) -> int:
        """Runs of all methods."""
        return sum(method.runs for method in self.methods)

    @property
    def steps(self) -> int | None:
        """Optimizer steps of all runs together, at most; None where the number of examples is not known."""
        steps = [method.steps for method in self.methods]
        return None if None in steps else sum(each for each in steps if each is not None)


def plan_sweep(sweep: Sweep, train_examples: int | Sequence[int] | None) -> SweepPlan:
    """Count configurations, runs and steps. `train_examples`: per epoch, for each round if they differ."""
    methods = tuple(_plan_method(sweep, method, train_examples) for method in sweep.methods)
    return SweepPlan(methods, len(sweep.seeds))


def configurations_of(sweep: Sweep, method_name: str) -> int:
    """How many configurations a method gets: the budget, but not more than its space has.

    The default budget of a grid is the whole grid.
    """
    distinct, asked = grid_size(method_space(sweep, method_name)), sweep.budget.configurations
    if distinct is None:
        return asked or _CONFIGURATIONS
    if asked is None and sweep.search.sampler == "grid":
        return distinct
    return min(asked or _CONFIGURATIONS, distinct)


def drawn_blindly(sweep: Sweep, method_name: str) -> int:
    """How many of a method's configurations are chosen without results: points of `first`, then random ones.

    With tpe, gp, cmaes and nomad half of the configurations, at least 2 and at most Optuna's 10; with nsga2 the first
    generation; with random and grid all. A sampler that is given by its class chooses from the first on. With asha none
    of these learns before some have gone beyond the first rung: losses there say who is quick, not who will be good.
    """
    configurations = configurations_of(sweep, method_name)
    match sweep.search.sampler:
        case "tpe" | "gp" | "cmaes" | "nomad":
            least = max(2, min(_MOST_AT_RANDOM, configurations // 2))
            if sweep.pruning.type == "asha":
                least = max(least, come_first(sweep, 0))
            return min(configurations, least)
        case "nsga2":
            return min(configurations, population_size(configurations))
        case "random" | "grid":
            return configurations
        case _:
            return 0


def come_first(sweep: Sweep, number: int) -> int:
    """How many come to asha's rung of this number, from 0, before any continues: one of them goes all the way.

    Of fewer the best third is mostly luck, and trained for nothing once better ones come. Where time is short, the
    first to finish is worth more. Two seeds count as a rung only where they are all, or a power of the reduction.
    """
    if sweep.budget.hours is not None:
        return 0
    steps = len(step_rungs(sweep))
    done = 0 if number < steps else seed_rungs(sweep)[number - steps]
    above = max(0, steps - 1 - number) + sum(count > done for count in _seed_powers(sweep))
    return math.ceil(sweep.pruning.reduction**above)


def step_rungs(sweep: Sweep) -> tuple[int | float, ...]:
    """The rungs of optimizer steps: steps, or shares of a run's."""
    eta = sweep.pruning.reduction
    return sweep.pruning.rungs or (eta**-2, eta**-1)


def seed_rungs(sweep: Sweep) -> list[int]:
    """The rungs of seeds: how many a configuration has finished there; at the last one it is over.

    With asha powers of the reduction, and two: that is where the few that have come so far are told apart.
    """
    seeds = len(sweep.seeds)
    if sweep.pruning.type != "asha":
        return list(range(1, seeds + 1))
    return sorted({*_seed_powers(sweep), min(2, seeds)})


def _seed_powers(sweep: Sweep) -> list[int]:
    seeds = len(sweep.seeds)
    powers = [math.ceil(sweep.pruning.reduction**power) for power in range(seeds)]
    return [*dict.fromkeys(count for count in powers if count < seeds), seeds]


def population_size(configurations: int) -> int:
    """The population of nsga2. With Optuna's 50, most sweeps would be a single generation, drawn at random."""
    return min(_LARGEST_POPULATION, max(_SMALLEST_POPULATION, configurations // _GENERATIONS))


def optimizer_steps(training: TrainingSpec, train_examples: int) -> int:
    """The optimizer steps of one run: `steps`, else the full batches in `epochs`, and at least one."""
    if training.steps is not None:
        return training.steps
    # As it was written: the float product of 0.29 and 100 is below 29.
    return max(1, math.floor(Fraction(str(training.epochs)) * train_examples / training.batch_size))


def _plan_method(sweep: Sweep, method: MethodSpec, train_examples: int | Sequence[int] | None) -> MethodPlan:
    configurations = configurations_of(sweep, method.name)
    again = sweep.confirmation
    confirmed = min(again.best, configurations) * len(again.seeds) if again else 0
    longest = _longest_run(sweep, method.name, train_examples)
    first = drawn_blindly(sweep, method.name)
    learns_from = first + 1 if first < configurations else None
    return MethodPlan(method.name, configurations, configurations * len(sweep.seeds), confirmed, longest, learns_from)


def _ends(values: Range) -> set[object]:
    """The smallest and the largest value, and None if it is among them."""
    every = extremes(values)
    numbers: list[Any] = [each for each in every if each is not None]
    return {*(numbers and (min(numbers), max(numbers))), *([None] if None in every else [])}


def _longest_run(sweep: Sweep, method_name: str, train_examples: int | Sequence[int] | None) -> int | None:
    """The steps, over all rounds, of the longest run in a method's space, found at the ends of the ranges involved."""
    if not method_named(sweep, method_name).trains:
        return 0
    deciding = ("training.steps", "training.epochs", "training.batch_size")
    searched = {path: values for path, values in method_space(sweep, method_name).items() if path in deciding}
    corners = itertools.product(*map(_ends, searched.values()))
    trainings = [resolve(sweep, method_name, dict(zip(searched, corner, strict=True))).training for corner in corners]
    if train_examples is None and any(training.steps is None for training in trainings):
        return None
    known = train_examples or 0
    rounds = [known] * len(sweep.data.rounds) if isinstance(known, int) else known
    return max(sum(optimizer_steps(training, examples) for examples in rounds) for training in trainings)
