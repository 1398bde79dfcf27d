"""A sweep's statistics over seeds, from its records; definitions in docs/statistics.md."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from statistics import fmean

import numpy as np

from gallop_ray.analysis.answers import recorded, weighted, weights_of
from gallop_ray.analysis.comparison import Comparison, Side, compare, corrected
from gallop_ray.analysis.learning import Learning, learning, nothing_learnt
from gallop_ray.analysis.missing import missing_text
from gallop_ray.analysis.ranking import best, is_confirmed, of_the_search, of_the_verdict, without_fresh_seeds
from gallop_ray.analysis.spread import Spread, spread
from gallop_ray.analysis.verdict import Verdict, decide, listed, selection_text
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import CONFIRMATION, SEARCH, EndedRun
from gallop_ray.spec.metrics import compared
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.metrics import Correct

MEAN_ACCURACY, ANSWER_LOSS, MARGIN = "mean_accuracy", "answer_loss", "margin"
_MEANS = {MEAN_ACCURACY: ("id_accuracy", "ood_accuracy"), ANSWER_LOSS: ("id_loss", "ood_loss")}
"""What is recorded on validation sets only: on test sets each is the mean of these two."""


@dataclass(frozen=True)
class ConfigurationStatistics:
    """A configuration over the seeds that it finished in one stage; a confirmed one has two of these."""

    configuration: str
    method: str
    stage: str
    seeds: tuple[int, ...]
    spreads: dict[str, Spread]


@dataclass(frozen=True)
class SweepStatistics:
    """Statistics of a sweep's finished runs.

    metric: the objective's counterpart on test sets, on which the verdict is based.
    results: of all runs that are over.
    best: each method's best configuration by the objective on validation sets, the best by `metric` first; from the
    runs on fresh seeds once each method has one.
    comparisons: of each pair of these with two common seeds, the higher-ranking one first.
    stability: the mean Kendall tau-b between the methods' rankings at two seeds; None without two methods and two
    common seeds.
    verdict: None with fewer than two methods.
    """

    metric: str
    results: Sequence[EndedRun]
    best: tuple[ConfigurationStatistics, ...]
    comparisons: tuple[Comparison, ...]
    stability: float | None
    verdict: Verdict | None

    @cached_property
    def configurations(self) -> tuple[ConfigurationStatistics, ...]:
        """Every configuration with a run that is over; computed lazily, as there may be thousands."""
        return tuple(_of_all(self.results))


def sweep_statistics(folder: SweepFolder, sweep: Sweep) -> SweepStatistics:
    """The statistics of a sweep that is over, active or partly failed."""
    results = with_means(folder.results())
    metric = verdict_metric(results, sweep)
    winners = _best(results, sweep, metric)
    correct = [{run.seed: recorded(folder.run(run.configuration, run.seed)) for run in runs} for _, runs in winners]
    comparisons = {
        name: _comparisons(winners, correct, name, weights_of(folder, sweep, name))
        for name in dict.fromkeys([metric, *compared()])
    }
    verdict = _decided(metric, winners, comparisons[metric], learning(folder, sweep, best(results, sweep.objective)))
    return SweepStatistics(
        metric=metric,
        results=results,
        best=tuple(statistics for statistics, _ in winners),
        comparisons=tuple(each for of_metric in comparisons.values() for each in of_metric),
        stability=rank_stability([_by_seed(runs, metric) for _, runs in winners]),
        verdict=None if verdict is None else _in_full(verdict, folder, sweep, results, winners),
    )


def with_means(results: Sequence[EndedRun]) -> list[EndedRun]:
    """Results with the means over tasks on test sets."""
    return [_with_mean(result) for result in results]


def _with_mean(result: EndedRun) -> EndedRun:
    """The result with mean_accuracy and answer_loss on test sets, which are recorded on validation sets only."""
    made = {}
    for name, parts in _MEANS.items():
        known = [value for part in parts if (value := result.value(part)) is not None]
        alone = name == ANSWER_LOSS and result.value("ood_accuracy") is result.value("ood_loss") is None
        if len(known) == len(parts) or (known and alone):
            made[name] = fmean(known)
    return result.model_copy(update=made) if made else result


def verdict_metric(results: Sequence[EndedRun], sweep: Sweep) -> str:
    """The metric of test sets that a verdict goes by: the objective's."""
    metric = sweep.objective.metric.removeprefix("val_")
    if metric == MARGIN:  # which is of validation sets alone: the answers that it is a margin of
        metric = MEAN_ACCURACY
    if metric == MEAN_ACCURACY and all(result.value(MEAN_ACCURACY) is None for result in results):
        return "id_accuracy"  # there is no other task
    return metric


def _of_all(results: Sequence[EndedRun]) -> Iterable[ConfigurationStatistics]:
    fresh = [result for result in results if result.stage == CONFIRMATION]
    for stage, runs in ((SEARCH, of_the_search(results)), (CONFIRMATION, fresh)):
        of_key: dict[str, list[EndedRun]] = defaultdict(list)
        for run in runs:
            of_key[run.configuration].append(run)
        for key in sorted(of_key):
            yield _statistics(of_key[key], stage)


def _statistics(runs: Sequence[EndedRun], stage: str) -> ConfigurationStatistics:
    """The statistics of one configuration's finished runs in one stage."""
    measured = {run.seed: run.measurements() for run in runs if run.finished}
    names = dict.fromkeys(name for values in measured.values() for name in values)
    spreads = {name: spread(name, {seed: values.get(name) for seed, values in measured.items()}) for name in names}
    return ConfigurationStatistics(runs[0].configuration, runs[0].method, stage, tuple(sorted(measured)), spreads)


Best = list[tuple[ConfigurationStatistics, list[EndedRun]]]
"""The best configuration of each method that has one, and its finished runs."""


def _best(results: Sequence[EndedRun], sweep: Sweep, metric: str) -> Best:
    stage = CONFIRMATION if is_confirmed(of_the_verdict(results, sweep.objective)) else SEARCH
    found = [(_statistics(each.runs, stage), each.finished) for each in best(results, sweep.objective)]
    sign = -1 if sweep.objective.maximize else 1
    measured = [each for each in found if metric in each[0].spreads]
    return sorted(measured, key=lambda each: sign * (each[0].spreads[metric].mean or 0.0))


def _by_seed(runs: Iterable[EndedRun], metric: str) -> dict[int, float]:
    return {run.seed: value for run in runs if (value := run.value(metric)) is not None}


def _comparisons(
    best: Best, correct: Sequence[Mapping[int, Correct]], metric: str, weights: Mapping[str, float]
) -> list[Comparison]:
    """All pairs of methods, the better by the verdict's metric first. correct: per method, correct.json by seed."""
    sides = [
        Side(
            statistics.configuration,
            statistics.method,
            _by_seed(runs, metric),
            {seed: weighted(answers, weights, metric) for seed, answers in by_seed.items()},
        )
        for (statistics, runs), by_seed in zip(best, correct, strict=True)
    ]
    return corrected([found for pair in combinations(sides, 2) if (found := compare(metric, *pair))])


def rank_stability(methods: Sequence[Mapping[int, float]]) -> float | None:
    """The mean of Kendall's tau-b between the methods' values at two seeds, over all pairs of common seeds.

    1: all seeds rank the methods alike; 0: as by chance. Pairs in which all methods tie at a seed do not count.

    Args:
        methods: per method, a metric's value by seed.
    """
    if len(methods) < 2:
        return None
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in methods)))
    columns = [[by_seed[seed] for by_seed in methods] for seed in seeds]
    from scipy.stats import kendalltau  # here: it takes a second or two, and validate, plan and run do not need it

    taus = [float(kendalltau(one, other).statistic) for one, other in combinations(columns, 2)]
    known = [tau for tau in taus if not np.isnan(tau)]
    return fmean(known) if known else None


def _decided(metric: str, best: Best, comparisons: Sequence[Comparison], learnt: Learning | None) -> Verdict | None:
    ranking = [statistics.method for statistics, _ in best]
    if len(ranking) < 2:
        return None
    verdict = decide(metric, ranking, comparisons)
    if learnt is not None and learnt.means and not learnt.learnt:
        return replace(verdict, outcome="nothing learnt", text=f"Nothing learnt: {nothing_learnt(learnt)}.")
    return verdict


def _in_full(verdict: Verdict, folder: SweepFolder, sweep: Sweep, results: Sequence[EndedRun], best: Best) -> Verdict:
    """The verdict with what qualifies it."""
    ranking = [statistics.method for statistics, _ in best]
    said = [verdict.text, selection_text(sweep), _unconfirmed(results, sweep), missing_text(folder, sweep, ranking)]
    return replace(verdict, text=" ".join(filter(None, said)))


def _unconfirmed(results: Sequence[EndedRun], sweep: Sweep) -> str | None:
    waiting = without_fresh_seeds(results, sweep.objective)
    return f"Fresh seeds decide once each method has one; without any yet: {listed(waiting)}." if waiting else None
