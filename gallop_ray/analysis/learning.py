"""Whether a method has learnt its task: its best configuration against the base model on the same test examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gallop_ray.analysis.answers import base_recorded, recorded, weighted, weights_of
from gallop_ray.analysis.comparison import LEAST_SEEDS, Side, compare, corrected
from gallop_ray.analysis.ranking import BASE, Summary
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.metrics import display_name, larger_is_better, shown_value, unit_of
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.metrics import base_metrics

_MEASURES = ("id_accuracy", "id_loss")


@dataclass(frozen=True)
class Learning:
    """The methods that have learnt, by a metric of the task trained on, and those that have not.

    base: the base model's value; means: each method's over the seeds of its best configuration.
    """

    metric: str
    base: float
    means: Mapping[str, float]
    learnt: tuple[str, ...]
    not_learnt: tuple[str, ...]


def learning(folder: SweepFolder, sweep: Sweep, best: Sequence[Summary]) -> Learning | None:
    """Which best configurations are significantly better than the base model; None where none was measured.

    With at least three common seeds by the test of docs/statistics.md, corrected over the methods; with fewer by the
    mean alone, where any gain counts.
    """
    measured = base_metrics(folder.base() or {}, sweep.data) if folder.base() else {}
    metric = next((name for name in _MEASURES if measured.get(name) is not None), None)
    if metric is None:
        return None
    base = float(measured[metric] or 0.0)
    means = {each.method: mean for each in best if (mean := each.over_seeds(metric)[0]) is not None}
    told = _told_apart(folder, sweep, [each for each in best if each.method in means], metric, base)
    sign = 1 if larger_is_better(metric) is not False else -1
    better = [name for name, mean in means.items() if sign * (mean - base) > 0 and told.get(name, True)]
    return Learning(metric, base, means, tuple(better), tuple(name for name in means if name not in better))


def _told_apart(
    folder: SweepFolder, sweep: Sweep, best: Sequence[Summary], metric: str, base: float
) -> Mapping[str, bool]:
    """For the methods with enough seeds for the test, whether they differ from the base model."""
    weights = weights_of(folder, sweep, metric)
    right = weighted(base_recorded(folder, sweep), weights, metric)
    found = []
    for each in best:
        values = {run.seed: value for run in each.finished if (value := run.value(metric)) is not None}
        answers = {seed: weighted(recorded(folder.run(each.configuration, seed)), weights, metric) for seed in values}
        mine = Side(each.configuration, each.method, values, answers)
        # The base model has no seeds: the same answers count at each of them.
        other = Side(BASE, BASE, dict.fromkeys(values, base), dict.fromkeys(values, right))
        if len(values) >= LEAST_SEEDS and (comparison := compare(metric, mine, other)):
            found.append(comparison)
    return {each.first_method: each.different for each in corrected(found)}


def nothing_learnt(found: Learning) -> str:
    """The sentence that no method differs from the base model."""
    near = max(found.means, key=lambda name: abs(found.means[name] - found.base))
    return (
        f"no method is told apart from the base model by {display_name(found.metric)} on test sets (base model "
        f"{_value(found.metric, found.base)}, {near} {_value(found.metric, found.means[near])}): more steps or other "
        "learning rates may help, or more test examples"
    )


def _value(metric: str, value: float) -> str:
    return f"{shown_value(metric, value)} {unit_of(metric)}"
