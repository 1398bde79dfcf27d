"""When to stop a configuration before all its seeds have run, by run records and on validation data only."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from gallop_ray.analysis.paired import p_worse
from gallop_ray.records.summary import aggregate
from gallop_ray.search.rungs import AtRung, above_median, allowance, worse_than_best
from gallop_ray.spec.plan import configurations_of
from gallop_ray.spec.plugins import is_reference, load_object
from gallop_ray.spec.problems import Path
from gallop_ray.spec.rungs import rung_weights, rungs_of
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.search import ObjectiveSpec
from gallop_ray.tasks.metrics import Correct


@dataclass(frozen=True)
class Contestant:
    """The finished runs of one configuration."""

    key: str
    values: Mapping[int, float]
    """The metric that races go by (`objective.racing`) by seed, in the order in which the seeds run."""
    correct: Callable[[int], Correct]
    """Which examples a seed's run answered correctly."""

    def first(self, runs: int, objective: ObjectiveSpec) -> float:
        """The objective over its first `runs` seeds."""
        return self.over(list(self.values)[:runs], objective)

    def over(self, seeds: Sequence[int], objective: ObjectiveSpec) -> float:
        """The objective over some of its seeds."""
        value = aggregate([self.values[seed] for seed in seeds], objective, objective.metric)
        assert value is not None
        return value


Rule = Callable[[Sweep, Contestant, Sequence[Contestant]], str | None]
"""From a sweep, a configuration's finished runs, and those of its method's others that have finished as many seeds: why
the configuration should stop, or None."""


def reason_to_prune(sweep: Sweep, mine: Contestant, others: Sequence[Contestant]) -> str | None:
    """Why a configuration with these finished runs should stop; None where it should continue.

    others: those of the same method. Raises ValueError for a user's rule that raises or gives no reason in words.
    """
    if sweep.pruning.type == "none" or len(mine.values) < sweep.pruning.after_seeds:
        return None
    comparable = [each for each in others if len(each.values) >= len(mine.values)]
    return rule_of(sweep.pruning.type)(sweep, mine, comparable)


def rule_of(name: str) -> Rule:
    """The pruning rule of a name or a `module:function`. Raises ValueError for one that cannot be used."""
    if not is_reference(name):
        return RULES[name]
    found = load_object(name)
    if not callable(found):
        raise ValueError(f"{name} is not a function of a sweep, a contestant and the others")
    return _checked(name, found)


def refused_rule(sweep: Sweep) -> Iterator[tuple[Path, str]]:
    """The problem with a rule that is given as `module:function`, if any: path in the sweep, and why."""
    if is_reference(sweep.pruning.type):
        try:
            rule_of(sweep.pruning.type)
        except ValueError as error:
            yield ("pruning", "type"), f"is not allowed; {error}"


def _checked(name: str, rule: Callable[..., object]) -> Rule:
    def checked(sweep: Sweep, mine: Contestant, others: Sequence[Contestant]) -> str | None:
        try:
            reason = rule(sweep, mine, others)
        except Exception as error:  # whatever the user's own code raises
            raise ValueError(f"pruning.type: {name} raised {type(error).__name__}: {error}") from error
        if reason is None or (isinstance(reason, str) and reason):
            return reason
        raise ValueError(f"pruning.type: {name} gave {reason!r:.60}; it must give a reason in words, or None")

    return checked


def _median(sweep: Sweep, mine: Contestant, others: Sequence[Contestant]) -> str | None:
    return _against_others(sweep, mine, others, _below_the_median)


def _race(sweep: Sweep, mine: Contestant, others: Sequence[Contestant]) -> str | None:
    if sweep.pruning.rungs is not None:  # the test alone, whose error is under control
        return _worse_than_the_best(sweep, mine, others)
    return _worse_than_the_best(sweep, mine, others) or _against_others(sweep, mine, others, _outside_of_the_best)


def _asha(sweep: Sweep, mine: Contestant, others: Sequence[Contestant]) -> str | None:
    return None  # it waits instead: see search.rungs


def reason_at_rung(sweep: Sweep, method: str, mine: AtRung, others: Sequence[AtRung]) -> str | None:
    """Why a configuration should stop at a rung of steps; others: those of its method that have come to it."""
    if sweep.pruning.rungs is None:  # it pauses there to take turns, or to wait
        return None
    if sweep.pruning.type == "race":
        return worse_than_best(mine, others, rung_weights(sweep), _allowed(sweep, method))
    if sweep.pruning.type == "median":
        return above_median(mine, others, sweep.pruning.after_configurations)
    return None


def _allowed(sweep: Sweep, method: str) -> float:
    looks = len(rungs_of(sweep, method)) - 1  # at the last one nothing is left to stop
    return allowance(sweep.pruning.significance, max(1, looks), configurations_of(sweep, method))


RULES: Mapping[str, Rule] = {"median": _median, "race": _race, "asha": _asha}


def _against_others(
    sweep: Sweep,
    mine: Contestant,
    others: Sequence[Contestant],
    compare: Callable[[Sweep, float, Sequence[float], int], str | None],
) -> str | None:
    """A comparison over as many seeds as `mine` has finished; None while too few others have as many."""
    done, by = len(mine.values), sweep.objective.racing
    if len(others) < sweep.pruning.after_configurations:
        return None
    return compare(sweep, mine.first(done, by), [each.first(done, by) for each in others], done)


def _below_the_median(sweep: Sweep, value: float, others: Sequence[float], done: int) -> str | None:
    middle = median(others)
    by = sweep.objective.racing
    if not _worse(by, value, middle):
        return None
    return f"{by.metric} {value:.4f} after {done} seeds; the median of {len(others)} others is {middle:.4f}"


def _outside_of_the_best(sweep: Sweep, value: float, others: Sequence[float], done: int) -> str | None:
    """Asynchronous successive halving (ASHA, arXiv 1810.05934), with completed seeds as its resource."""
    field = len(others) + 1
    kept = max(1, round(field / sweep.pruning.reduction))
    by = sweep.objective.racing
    better = sum(_worse(by, value, other) for other in others)
    if better < kept:
        return None
    return f"{by.metric} {value:.4f} after {done} seeds is number {better + 1} of {field}; {kept} continue"


def _worse_than_the_best(sweep: Sweep, mine: Contestant, others: Sequence[Contestant]) -> str | None:
    if not others:
        return None
    most = max(len(each.values) for each in others)
    far = [each for each in others if len(each.values) == most]
    by = sweep.objective.racing
    best = (max if by.maximize else min)(far, key=lambda each: each.first(most, by))
    common = sorted(mine.values.keys() & best.values.keys())
    if not common or not _worse(by, mine.over(common, by), best.over(common, by)):
        return None  # by what the search goes by it is as good, whatever the test would say of the answers
    p = p_worse(
        {seed: mine.correct(seed) for seed in common},
        {seed: best.correct(seed) for seed in common},
        by.metric,
        sweep.data.train_tasks,
    )
    method = mine.key.rpartition("-")[0]
    allowed = sweep.pruning.significance if sweep.pruning.rungs is None else _allowed(sweep, method)
    if p is None or p >= allowed:
        return None
    return f"worse than {best.key} on the same validation examples at {len(common)} seeds (paired t-test, p = {p:.2g})"


def _worse(objective: ObjectiveSpec, value: float, than: float) -> bool:
    return value < than if objective.maximize else value > than
