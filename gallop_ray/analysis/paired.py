"""Tests whether one configuration is worse than another, on the same validation examples at the same seeds."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, variance

from scipy.special import stdtr

from gallop_ray.spec.metrics import made_of, maximized, task_weights
from gallop_ray.tasks.metrics import Correct, plain, task_of, those_measured
from gallop_ray.tasks.values import numbers


def p_worse(
    mine: Mapping[int, Correct], other: Mapping[int, Correct], metric: str, train_tasks: Sequence[str]
) -> float | None:
    """The one-sided p of "mine is not worse than the other" on a validation metric; None without a common seed, and
    for a metric that is not a sum of accuracies.

    A paired t-test of the differences over examples, each the mean over the common seeds, stratified by task (Welch's
    degrees of freedom). With at least two common seeds the differences over seeds are tested as well, and the larger p
    counts: both vary by chance. The forget ratio is tested through the OOD accuracy.
    """
    seeds = sorted(mine.keys() & other.keys())
    if not seeds:
        return None
    weights = _weights(mine[seeds[0]], metric, train_tasks)
    if not weights:
        return None
    by_seed = [{task: _differences(mine[s], other[s], task, metric) for task in weights} for s in seeds]
    if len(train_tasks) > 1:
        weights, by_seed = _over_rounds(weights, by_seed)
    found = _p_over_examples(weights, by_seed)
    if len(seeds) > 1:
        totals = [sum(w * fmean(each[task]) for task, w in weights.items()) for each in by_seed]
        found = max(found, _p(fmean(totals), variance(totals) / len(totals), len(totals) - 1))
    return found


def p_of_differences(weights: Mapping[str, float], differences: Mapping[str, Sequence[float]]) -> float:
    """The one-sided p of "their weighted mean is not below 0", of differences over examples by task; as `p_worse`."""
    return _p_over_examples(weights, [differences])


def _weights(correct: Correct, metric: str, train_tasks: Sequence[str]) -> dict[str, float]:
    """The weight of each task in the metric, or of each `<task trained on>/<task>` of a run with several rounds."""
    tasks = those_measured(correct, list(correct), "validation", made_of(metric))
    if len(train_tasks) == 1:
        return _of_a_round(tasks, metric, train_tasks[0])
    rounds = {task: [each for each in tasks if each.startswith(f"{task}/")] for task in train_tasks}
    of_each = [_of_a_round(tasks, metric, f"{task}/{task}") for task, tasks in rounds.items()]
    return {task: weight / len(rounds) for each in of_each for task, weight in each.items()}


def _of_a_round(tasks: Sequence[str], metric: str, train_task: str) -> dict[str, float]:
    """With signs such that more is better for any metric."""
    sign = 1 if maximized(metric) else -1
    weights = task_weights(metric, train_task, [task for task in tasks if task != train_task], 1.0)
    return {task: sign * weight for task, weight in weights.items()}


def _differences(mine: Correct, other: Correct, task: str, metric: str) -> list[float]:
    ours, theirs = (numbers(plain(each[task]["validation"], made_of(metric)) or "") for each in (mine, other))
    return [a - b for a, b in zip(ours, theirs, strict=True)]


def _over_rounds(
    weights: Mapping[str, float], by_seed: Sequence[Mapping[str, Sequence[float]]]
) -> tuple[dict[str, float], list[dict[str, list[float]]]]:
    """What all rounds reach on a task, added up: they meet the same examples, which must not count as so many more."""
    rounds: dict[str, list[str]] = {}
    for name in weights:
        rounds.setdefault(task_of(name), []).append(name)
    added = [
        {
            task: [sum(parts) for parts in zip(*([weights[n] * d for d in seed[n]] for n in names), strict=True)]
            for task, names in rounds.items()
        }
        for seed in by_seed
    ]
    return dict.fromkeys(rounds, 1.0), added


def _p_over_examples(weights: Mapping[str, float], by_seed: Sequence[Mapping[str, Sequence[float]]]) -> float:
    difference, parts = 0.0, []
    for task, weight in weights.items():
        each = [fmean(over_seeds) for over_seeds in zip(*(seed[task] for seed in by_seed), strict=True)]
        difference += weight * fmean(each)
        if len(each) > 1:
            parts.append((weight**2 * variance(each) / len(each), len(each) - 1))
    total = sum(part for part, _ in parts)
    freedom = total**2 / sum(part**2 / n for part, n in parts) if total else 1.0
    return _p(difference, total, freedom)


def _p(difference: float, squared_error: float, freedom: float) -> float:
    if squared_error == 0:  # all differences are equal: there is no variation to test against
        return 0.0 if difference < 0 else 1.0
    return float(stdtr(freedom, difference / math.sqrt(squared_error)))
