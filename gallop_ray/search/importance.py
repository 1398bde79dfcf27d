"""Which searched parameters matter, by Optuna: PED-ANOVA (Watanabe et al., arXiv 2304.10255)."""

import logging

import optuna
from optuna.trial import FrozenTrial, TrialState

from gallop_ray.records.folders import SweepFolder
from gallop_ray.search.storage import read_storage, study_name
from gallop_ray.search.view import view_in_one_space
from gallop_ray.spec.metrics import maximized
from gallop_ray.spec.schema import Sweep

_FEWEST = 10
_LOG = logging.getLogger(__name__)


def importances(folder: SweepFolder, sweep: Sweep) -> dict[str, dict[str, float]]:
    """By method, each parameter's share in the variation of the (first) objective; the shares add up to 1.

    Only for methods with at least ten finished configurations and two varied parameters; fewer say nothing. Read-only,
    so it may be called while the sweep runs. Empty where the studies' database cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = read_storage(folder, sweep)
    except ValueError as error:
        _LOG.warning("no importances: %s", error)
        return {}
    if storage is None:
        return {}
    names = {method.name: study_name(folder, sweep, method.name) for method in sweep.methods}
    there = set(optuna.get_all_study_names(storage))
    found = {
        method: _shares(view_in_one_space(optuna.load_study(study_name=name, storage=storage)), sweep)
        for method, name in names.items()
        if name in there
    }
    return {method: shares for method, shares in found.items() if shares}


def _shares(study: optuna.Study, sweep: Sweep) -> dict[str, float]:
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    varied = [name for name in (trials[0].params if trials else ()) if len({_of(trial, name) for trial in trials}) > 1]
    if len(trials) < _FEWEST or len(varied) < 2 or len({trial.values[0] for trial in trials}) < 2:
        return {}
    sign = 1 if maximized(sweep.objective.metric) else -1
    # Without a target the evaluator uses the study's direction; with one it takes small values for good.
    target = None if sweep.objective.metrics is None else lambda trial: -sign * trial.values[0]
    try:
        shares = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(), params=varied, target=target
        )
    except (ValueError, RuntimeError) as error:  # such as parameters with a single value among the best
        _LOG.debug("no importances: %s", error)
        return {}
    return {name.removeprefix("method.").removeprefix("training."): share for name, share in shares.items()}


def _of(trial: FrozenTrial, name: str) -> object:
    return trial.params.get(name)
