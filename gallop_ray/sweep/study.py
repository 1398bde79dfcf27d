"""What to try next: one Optuna study per method, in a journal file beside the run folders that are the truth."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from gallop_ray.spec.configuration import configuration_key, method_space, resolve
from gallop_ray.spec.plan import plan_sweep
from gallop_ray.spec.schema import SearchSpec, Sweep
from gallop_ray.spec.space import ChoiceRange, IntegerRange, LogRange, Range
from gallop_ray.tracking.records import FINAL, ConfigurationFolder, SweepFolder
from gallop_ray.tracking.summary import mean_and_std

_KEY = "configuration"
_DUPLICATES = 50  # suggestions in a row that were tried before; then the method's space counts as exhausted


class Studies:
    """The studies of a sweep's methods, asked in turn so that none is starved. One process at a time uses them."""

    def __init__(self, sweep: Sweep, folder: SweepFolder) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._sweep, self._folder = sweep, folder
        storage = _storage(folder.path / "study.journal")
        self._studies = {
            method.name: optuna.create_study(
                study_name=method.name,
                storage=storage,
                sampler=_sampler(sweep.search, index),
                direction="maximize" if sweep.objective.maximize else "minimize",
                load_if_exists=True,
            )
            for index, method in enumerate(sweep.methods)
        }
        self._wanted = {plan.method: plan.configurations for plan in plan_sweep(sweep, None).methods}
        self._leftover: list[str] = []
        self._tried = {name: self._replay(study) for name, study in self._studies.items()}

    @property
    def exhausted(self) -> bool:
        """Whether next() has nothing to hand out."""
        spent = all(len(self._tried[name]) >= wanted for name, wanted in self._wanted.items())
        return spent and not self._leftover

    def next(self) -> str | None:
        """The key of the next configuration to run, its folder created; None when the budget has been handed out.

        Configurations that an earlier start left unfinished come first.
        """
        if self._leftover:
            return self._leftover.pop(0)
        for name in sorted(self._studies, key=lambda n: len(self._tried[n])):
            if len(self._tried[name]) < self._wanted[name] and (key := self._ask(name)):
                return key
        return None

    def is_over(self, key: str) -> bool:
        """Whether nothing is left to do for a configuration."""
        return self._folder.configuration(key).status()["status"] in FINAL

    def tell(self, key: str) -> None:
        """Tell a configuration's study what its run folders say, if the configuration is over."""
        study = self._studies[self._folder.configuration(key).configuration()["method"]["name"]]
        if self.is_over(key):
            mine = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get(_KEY) == key]
            self._tell(study, mine[-1], self._folder.configuration(key))

    def _replay(self, study: optuna.Study) -> dict[str, None]:
        """Bring a study up to date with the run folders; the keys of all its configurations."""
        known: dict[str, FrozenTrial] = {}
        for trial in study.get_trials(deepcopy=False):
            if (key := trial.user_attrs.get(_KEY)) is not None:
                known[key] = trial
            elif trial.state == TrialState.RUNNING:  # the process died between asking and knowing what was asked
                study.tell(trial.number, state=TrialState.FAIL)
        for key, trial in known.items():
            if self.is_over(key):
                self._tell(study, trial, self._folder.configuration(key))
            else:
                self._create(key, resolve(self._sweep, study.study_name, _values(trial.params)).model_dump(mode="json"))
                self._leftover.append(key)
        return dict.fromkeys(known)

    def _ask(self, name: str) -> str | None:
        study, space = self._studies[name], method_space(self._sweep, name)
        for _ in range(_DUPLICATES):
            trial = study.ask()
            values = {path: _suggest(trial, path, allowed) for path, allowed in space.items()}
            configuration = resolve(self._sweep, name, _values(values))
            key = configuration_key(configuration)
            if key not in self._tried[name]:
                self._create(key, configuration.model_dump(mode="json"))
                trial.set_user_attr(_KEY, key)
                self._tried[name][key] = None
                return key
            study.tell(trial, state=TrialState.FAIL)
        self._wanted[name] = len(self._tried[name])
        return None

    def _create(self, key: str, configuration: Mapping[str, Any]) -> None:
        folder = self._folder.configuration(key)
        folder.create(configuration)
        if not folder.status():
            folder.write_status("running", [])

    def _tell(self, study: optuna.Study, trial: FrozenTrial, configuration: ConfigurationFolder) -> None:
        """Tell the study how a configuration has ended.

        What a study was told once stays: a configuration that is given more seeds afterwards counts in the search by
        those that it had, in the tables by all. One that had failed and was retried becomes a trial of its own.
        """
        status = configuration.status()
        if trial.state == TrialState.FAIL and status["status"] == "finished":
            study.add_trial(_succeeded(trial, objective(configuration, self._sweep.objective.metric)))
        elif trial.state != TrialState.RUNNING:
            return
        elif status["status"] == "finished":
            study.tell(trial.number, objective(configuration, self._sweep.objective.metric))
        elif status["status"] == "pruned":
            value = objective(configuration, self._sweep.objective.metric)
            optuna.trial.Trial(study, trial._trial_id).report(value, len(status["seeds_done"]))
            study.tell(trial.number, state=TrialState.PRUNED)
        else:
            study.tell(trial.number, state=TrialState.FAIL)


def _succeeded(failed: FrozenTrial, value: float) -> FrozenTrial:
    return optuna.trial.create_trial(
        params=failed.params, distributions=failed.distributions, user_attrs=failed.user_attrs, value=value
    )


def objective(configuration: ConfigurationFolder, metric: str) -> float:
    """The mean of the objective's metric over the configuration's finished seeds."""
    done = [r[metric] for r in configuration.results() if r["status"] == "finished"]
    mean, _ = mean_and_std(done)
    assert mean is not None
    return mean


def _storage(path: Path) -> optuna.storages.JournalStorage:
    # A killed driver leaves the journal's lock behind; the sweep's own lock says that no other driver is alive.
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    return optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))


def _sampler(search: SearchSpec, index: int) -> optuna.samplers.BaseSampler:
    seed = search.seed + index
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def _suggest(trial: optuna.Trial, path: str, allowed: Range) -> object:
    if isinstance(allowed, ChoiceRange):
        # As JSON, because Optuna's categories are plain values and ours need not be.
        return trial.suggest_categorical(path, [json.dumps(c, sort_keys=True) for c in allowed.choice])
    if isinstance(allowed, IntegerRange):
        return trial.suggest_int(path, *allowed.integer)
    if isinstance(allowed, LogRange):
        return trial.suggest_float(path, *allowed.log, log=True)
    return trial.suggest_float(path, *allowed.linear)


def _values(params: Mapping[str, object]) -> dict[str, object]:
    return {path: json.loads(v) if isinstance(v, str) else v for path, v in params.items()}
