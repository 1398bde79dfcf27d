"""A study as its sampler should see it while configurations wait at rungs."""

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial


def judged_view(study: optuna.Study) -> optuna.Study:
    """A copy in memory in which what was judged at a rung and is not over counts as pruned there.

    Optuna learns from pruned trials by their last intermediate value, and from running ones nothing. In the study
    itself they cannot be pruned yet: they may be promoted, and finished trials cannot be changed.
    """
    view = optuna.create_study(directions=study.directions, sampler=study.sampler)
    view.add_trials(_judged(study.get_trials(deepcopy=False)))
    return view


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
