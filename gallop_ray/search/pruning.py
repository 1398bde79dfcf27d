"""When to stop a configuration before all its seeds have run. Goes by run records, on validation data only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from gallop_ray.analysis.paired import p_worse
from gallop_ray.records.summary import aggregate
from gallop_ray.spec.schema import ObjectiveSpec, Sweep
from gallop_ray.tasks.metrics import Correct


@dataclass(frozen=True)
class Contestant:
    """The finished runs of one configuration."""

    key: str
    values: Mapping[int, float]
    """The objective's metric by seed, in the order in which the seeds run."""
    correct: Callable[[int], Correct]
    """What a seed's run answered right."""

    def first(self, runs: int, objective: ObjectiveSpec) -> float:
        """What it counts for by its first `runs` seeds."""
        value = aggregate(list(self.values.values())[:runs], objective, objective.metric)
        assert value is not None
        return value


def reason_to_prune(sweep: Sweep, mine: Contestant, others: Sequence[Contestant]) -> str | None:
    """Why a configuration with these finished runs should stop; None where it should go on.

    others: those of the same method. Compared are those that have finished as many seeds, over that many seeds.
    """
    pruning, done = sweep.pruning, len(mine.values)
    comparable = [each for each in others if len(each.values) >= done]
    if pruning.type == "none" or done < pruning.after_seeds:
        return None
    if pruning.type == "race" and (reason := _worse_than_the_best(sweep, mine, comparable)):
        return reason
    if len(comparable) < pruning.after_configurations:
        return None
    rule = _below_the_median if pruning.type == "median" else _outside_of_the_best
    return rule(
        sweep, mine.first(done, sweep.objective), [each.first(done, sweep.objective) for each in comparable], done
    )


def _below_the_median(sweep: Sweep, value: float, others: Sequence[float], done: int) -> str | None:
    middle = median(others)
    if not _worse(sweep.objective, value, middle):
        return None
    return (
        f"{sweep.objective.metric} {value:.4f} after {done} seeds; the median of {len(others)} others is {middle:.4f}"
    )


def _outside_of_the_best(sweep: Sweep, value: float, others: Sequence[float], done: int) -> str | None:
    """Successive halving as it goes (ASHA, arXiv 1810.05934), its resource being completed seeds."""
    field = len(others) + 1
    kept = max(1, round(field / sweep.pruning.reduction))
    better = sum(_worse(sweep.objective, value, other) for other in others)
    if better < kept:
        return None
    return f"{sweep.objective.metric} {value:.4f} after {done} seeds is number {better + 1} of {field}; {kept} continue"


def _worse_than_the_best(sweep: Sweep, mine: Contestant, others: Sequence[Contestant]) -> str | None:
    if not others:
        return None
    most = max(len(each.values) for each in others)
    far = [each for each in others if len(each.values) == most]
    best = (max if sweep.objective.maximize else min)(far, key=lambda each: each.first(most, sweep.objective))
    common = mine.values.keys() & best.values.keys()
    p = p_worse(
        {seed: mine.correct(seed) for seed in common},
        {seed: best.correct(seed) for seed in common},
        sweep.objective.metric,
        sweep.data.train_tasks,
    )
    if p is None or p >= sweep.pruning.significance:
        return None
    return f"worse than {best.key} on the same validation examples at {len(common)} seeds (paired t-test, p = {p:.2g})"


def _worse(objective: ObjectiveSpec, value: float, than: float) -> bool:
    return value < than if objective.maximize else value > than
