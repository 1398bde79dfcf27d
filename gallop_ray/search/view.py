"""A study as its sampler should see it: while configurations wait at rungs, and once ranges have grown."""

from collections.abc import Sequence
from copy import copy

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial


def judged_view(study: optuna.Study) -> optuna.Study:
    """A copy in memory in which what was judged at a rung and is not over counts as pruned there.

    Optuna learns from pruned trials by their last intermediate value, and from running ones nothing. In the study
    itself they cannot be pruned yet: they may be promoted, and finished trials cannot be changed.
    """
    return _copy(study, _judged(study.get_trials(deepcopy=False)))


def view_in_one_space(study: optuna.Study) -> optuna.Study:
    """A copy in memory in which each parameter has one range: the widest that it has had."""
    return _copy(study, study.get_trials(deepcopy=False))


def _copy(study: optuna.Study, trials: Sequence[FrozenTrial]) -> optuna.Study:
    """With the widest range of each parameter: about what lies beyond its first one Optuna learns nothing."""
    view = optuna.create_study(directions=study.directions, sampler=study.sampler)
    view.add_trials(_in_one_space(trials))
    return view


def _in_one_space(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    widest: dict[str, BaseDistribution] = {}
    for trial in trials:
        for name, kind in trial.distributions.items():
            widest[name] = _union(widest.get(name, kind), kind)
    return [_with_ranges(trial, {name: widest[name] for name in trial.distributions}) for trial in trials]


def _union(one: BaseDistribution, other: BaseDistribution) -> BaseDistribution:
    if isinstance(one, FloatDistribution) and isinstance(other, FloatDistribution):
        return FloatDistribution(min(one.low, other.low), max(one.high, other.high), log=one.log)
    return one


def _with_ranges(trial: FrozenTrial, ranges: dict[str, BaseDistribution]) -> FrozenTrial:
    if ranges == trial.distributions:
        return trial
    changed = copy(trial)
    changed.distributions = ranges
    return changed


def _judged(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [
        create_trial(
            state=TrialState.PRUNED,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
            user_attrs=trial.user_attrs,
        )
        if trial.state == TrialState.RUNNING and trial.intermediate_values
        else trial
        for trial in trials
    ]
