"""How far a configuration has climbed, by its run folders."""

from dataclasses import dataclass, field

from gallop_ray.records.folders import ConfigurationFolder
from gallop_ray.records.summary import objective_value
from gallop_ray.spec.rungs import rungs_of
from gallop_ray.spec.schema import Sweep


@dataclass
class Climbed:
    """A configuration's rungs, counted from 0: the value measured at each, and the optimizer step, over all its seeds.

    A rung of steps has the validation loss, one of seeds the objective. rungs: how many it has climbed, those included
    that its few steps have not. latest: the objective over all seeds that have finished, at a rung or between two.
    """

    rungs: int = 0
    latest: float | None = None
    values: dict[int, float] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)


def climbed(sweep: Sweep, configuration: ConfigurationFolder) -> Climbed:
    """What a configuration's runs say."""
    found = Climbed()
    finished = {each.seed: each for each in configuration.results() if each.finished}
    seeds = [seed for seed in sweep.seeds if seed in finished]
    if seeds:
        found.latest = objective_value([finished[seed] for seed in seeds], sweep.objective.racing)
    judged = configuration.run(sweep.seeds[0]).rungs()
    for number, rung in enumerate(rungs_of(sweep, configuration.method)):
        if rung.at is not None:
            there = judged.at(rung.at)
            value, step = (None, 0) if there is None else (there.loss, there.step)
        elif rung.seeds <= len(seeds):
            some = [finished[seed] for seed in seeds[: rung.seeds]]
            value, step = objective_value(some, sweep.objective.racing), sum(each.steps for each in some)
        else:
            break
        if value is not None:
            found.values[number], found.steps[number] = value, step
        if value is not None or seeds:
            found.rungs = number + 1
    return found


def better_is_more(sweep: Sweep, method: str, number: int) -> bool:
    """Whether a larger value is better at a rung."""
    return rungs_of(sweep, method)[number].at is None and sweep.objective.racing.maximize


def as_objective(sweep: Sweep, method: str, climbed: Climbed) -> dict[int, float]:
    """The values by step, with signs such that better is as in the objective: what a study is told."""
    flips = {n: sweep.objective.racing.maximize and not better_is_more(sweep, method, n) for n in climbed.values}
    return {climbed.steps[n]: -value if flips[n] else value for n, value in climbed.values.items()}
