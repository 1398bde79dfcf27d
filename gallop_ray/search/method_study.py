"""The Optuna study of one method: what to try next, and how it ended."""

from collections.abc import Iterator, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from gallop_ray.records.folders import ConfigurationFolder, SweepFolder
from gallop_ray.records.summary import objective_value
from gallop_ray.search.climbed import as_objective, climbed
from gallop_ray.search.points import Values, distributions, random_point, seed_from, to_params, to_values
from gallop_ray.search.samplers import make_sampler
from gallop_ray.search.storage import study_name
from gallop_ray.search.view import judged_view
from gallop_ray.search.warm_start import known_points
from gallop_ray.search.widening import beyond
from gallop_ray.spec.configuration import configuration_key, first_points, method_named, method_space, resolve
from gallop_ray.spec.metrics import maximized
from gallop_ray.spec.plan import drawn_blindly
from gallop_ray.spec.rungs import climbs
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.space import Range, grid_point, grid_size, holds
from gallop_ray.spec.widening import widened_space

_MAXIMIZE, _MINIMIZE = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
_KEY = "configuration"
_SOURCE = "warm start"  # of a trial that an earlier sweep has run
_LEAVE_POINTS = ("tpe", "random", "grid", "gp", "cmaes", "nomad")  # without a state per trial: points may be added
_DUPLICATES = 50  # known points in a row, after which a finite space is enumerated instead


class MethodStudy:
    """Configurations of one method, each started once.

    First, random and grid points depend only on the sweep file and on what was tried before, so a restart continues as
    if nothing had interrupted it. tpe and nsga2 draw other points after a restart.
    """

    def __init__(
        self, sweep: Sweep, name: str, wanted: int, folder: SweepFolder, storage: optuna.storages.BaseStorage
    ) -> None:
        self._sweep, self._name, self._folder, self._storage = sweep, name, folder, storage
        directions = [_MAXIMIZE if maximized(m) else _MINIMIZE for m in sweep.objective.racing.all_metrics]
        self._study = optuna.create_study(
            study_name=study_name(folder, sweep, name), storage=storage, directions=directions, load_if_exists=True
        )
        self._study_id = storage.get_study_id_from_name(self._study.study_name)
        trials = self._study.get_trials(deepcopy=False)
        tried = [to_values(trial.params) for trial in trials if _KEY in trial.user_attrs]
        self._set_space(widened_space(sweep, name, tried))
        self._wanted = wanted
        self._trials: dict[str, int] = {}
        self.unfinished: list[str] = []
        """Keys of the configurations that an earlier start has left unfinished."""
        for key, trial in self._known(trials).items():
            self._replay(key, trial)
        self._adopt(tried)
        told = self._warm_start(trials)
        self._blind = drawn_blindly(sweep, name)
        self._set_sampler(len(trials))
        self._blind = max(0, self._blind - told)  # a sampler that goes by what it is told needs no more than that
        self._first = self._first_points()
        self._walked = 0

    @property
    def tried(self) -> int:
        """How many configurations were started."""
        return len(self._trials)

    @property
    def exhausted(self) -> bool:
        """Whether all configurations of the budget were started."""
        return self.tried >= self._wanted

    def begin(self) -> str | None:
        """Start another configuration. Returns its key, or None when there is no other."""
        if (first := self._untried(self._first)) is not None:
            return self._begin(first)
        if (point := self._beyond()) is not None:
            return self._begin(point)
        key = self._suggest() if self.tried >= self._blind else None
        if key is None and (point := self._untried(self._points())) is not None:
            key = self._begin(point)
        if key is None:
            self._wanted = self.tried
        return key

    def tell(self, configuration: ConfigurationFolder) -> None:
        """Tell the study how a configuration ended, by its run folders."""
        self._tell(self._storage.get_trial(self._trials[configuration.key]), configuration)

    def report(self, configuration: ConfigurationFolder) -> None:
        """Tell the study what was measured at rungs, by optimizer step, such that better is as in the objective."""
        place = self._trials[configuration.key]
        # A trial that has ended stays as it is: its configuration is retried, or gets more seeds.
        trial = self._storage.get_trial(place)
        if self._sweep.objective.metrics or trial.state.is_finished():
            return
        at = climbed(self._sweep, configuration)
        for step, value in as_objective(self._sweep, self._name, at).items():
            if trial.intermediate_values.get(step) != value:
                self._storage.set_trial_intermediate_value(place, step, value)

    def _beyond(self) -> Values | None:
        """A point beyond an end at which the best lies, the range having grown to hold it; None where it does not."""
        if not self._sweep.search.widen:
            return None
        found = beyond(self._sweep, self._name, self._space, self._mine())
        if found is None:
            return None
        space, point = found
        self._set_space(space)
        self._set_sampler(self.tried)  # one of its own, because TPE keeps the ranges that it has seen
        return point

    def _set_sampler(self, trials: int) -> None:
        """A new sampler; its seed goes by the number of trials, too, or a restarted one would repeat its points."""
        seed = seed_from(self._sweep.search.seed, self._name, trials)
        self._study.sampler = make_sampler(self._sweep.search, self._wanted, self._blind, seed)

    def _id(self, trial: FrozenTrial | optuna.Trial) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)

    def _known(self, trials: Sequence[FrozenTrial]) -> dict[str, FrozenTrial]:
        """The trial that counts for each configuration: its last one."""
        known: dict[str, FrozenTrial] = {}
        for trial in trials:
            key = trial.user_attrs.get(_KEY)
            if key is not None and (key not in known or trial.state != TrialState.RUNNING):
                known[key] = trial
            elif trial.state == TrialState.RUNNING:  # the driver died between ask and key, or the point was known
                self._study.tell(trial.number, state=TrialState.FAIL)
        return known

    def _replay(self, key: str, trial: FrozenTrial) -> None:
        """Bring a configuration's trial up to date with its run folders."""
        self._trials[key] = self._id(trial)
        configuration = self._folder.configuration(key)
        if configuration.status().over:
            self._tell(trial, configuration)
        else:
            self._create(self._id(trial), to_values(trial.params))
            self.unfinished.append(key)

    def _adopt(self, tried: list[Values]) -> None:
        """Add configurations that the study does not know, because its storage was lost or replaced."""
        unknown = {each.key: self._tried_point(each) for each in self._mine() if each.key not in self._trials}
        self._set_space(widened_space(self._sweep, self._name, [*tried, *unknown.values()]))
        for key, point in unknown.items():
            self._replay(key, self._storage.get_trial(self._add(point, key)))

    def _set_space(self, space: dict[str, Range]) -> None:
        self._space, self._distributions = space, distributions(space)

    def _mine(self) -> list[ConfigurationFolder]:
        return [each for each in self._folder.configurations() if each.method == self._name]

    def _tried_point(self, configuration: ConfigurationFolder) -> Values:
        asked = configuration.configuration()
        return {path: asked.option(path) for path in method_space(self._sweep, self._name)}

    def _warm_start(self, trials: Sequence[FrozenTrial]) -> int:
        """Tell the study what earlier sweeps have found, once; how much that is.

        These trials have no key of a configuration, so that nothing counts them as this sweep's.
        """
        told = {trial.user_attrs.get(_SOURCE) for trial in trials}
        # Ranges of the earlier sweep may have grown: what lies beyond ours cannot be told here.
        known = [each for each in known_points(self._sweep, self._name) if self._holds(each.point)]
        for each in known:
            if each.source not in told:
                trial = create_trial(
                    params=to_params(self._space, each.point),
                    distributions=self._distributions,
                    user_attrs={_SOURCE: each.source},
                    values=list(each.values),
                )
                self._storage.create_new_trial(self._study_id, trial)
        return len(known)

    def _holds(self, point: Values) -> bool:
        return all(holds(self._space[path], value) for path, value in point.items())

    def _first_points(self) -> list[Values]:
        given = first_points(self._sweep, method_named(self._sweep, self._name))
        seed, space = self._sweep.search.seed, method_space(self._sweep, self._name)
        return [{**random_point(space, seed, "first", place), **point} for place, point in enumerate(given)]

    def _points(self) -> Iterator[Values]:
        """Random points, unless a grid is asked for; then, where the space is finite, all of it in order.

        Random points are numbered without those of `first`, of which one method may have more than another: methods
        that search the same ranges draw the same points.
        """
        if self._sweep.search.sampler != "grid":
            number = max(0, self.tried - len(self._first))
            for attempt in range(_DUPLICATES):
                yield random_point(self._space, self._sweep.search.seed, number, attempt)
        while self._walked < (grid_size(self._space) or 0):
            self._walked += 1
            yield grid_point(self._space, self._walked - 1)

    def _untried(self, points: Iterator[Values] | list[Values]) -> Values | None:
        return next((point for point in points if self._key(point) not in self._trials), None)

    def _key(self, values: Values) -> str:
        return configuration_key(resolve(self._sweep, self._name, values))

    def _begin(self, values: Values) -> str | None:
        """Start a given point, as one record of the journal, so that a kill cannot leave it there without its key."""
        if self._sweep.search.sampler not in _LEAVE_POINTS:  # such as nsga2, which assigns a point to a generation
            self._study.enqueue_trial(to_params(self._space, values))
            return self._suggest()
        return self._create(self._add(values, self._key(values)), values)

    def _add(self, values: Values, key: str) -> int:
        """A RUNNING trial at this point, with its key in the same record."""
        trial = create_trial(
            state=TrialState.RUNNING,
            params=to_params(self._space, values),
            distributions=self._distributions,
            user_attrs={_KEY: key},
        )
        # Not Study.add_trial, which does not return the trial's id.
        return self._storage.create_new_trial(self._study_id, trial)

    def _suggest(self) -> str | None:
        """Start what the sampler suggests; None where it suggests nothing new."""
        if self._sweep.search.sampler == "tpe" and (climbs(self._sweep) or self._sweep.search.widen):
            return self._suggest_by_view()
        for _ in range(_DUPLICATES):
            trial = self._study.ask(self._distributions)
            values = to_values(trial.params)
            key = self._key(values)
            if key not in self._trials:
                trial.set_user_attr(_KEY, key)
                return self._create(self._id(trial), values)
            self._study.tell(trial, state=TrialState.FAIL)
        return None

    def _suggest_by_view(self) -> str | None:
        """As _suggest, with what was measured at rungs and ranges that have grown; its own trials are forgotten."""
        view = judged_view(self._study)
        for _ in range(_DUPLICATES):
            trial = view.ask(self._distributions)
            values = to_values(trial.params)
            if (key := self._key(values)) not in self._trials:
                return self._create(self._add(values, key), values)
            view.tell(trial, state=TrialState.FAIL)
        return None

    def _create(self, trial: int, values: Values) -> str:
        """Create the folder of a configuration whose trial is in the journal with its key already."""
        configuration = resolve(self._sweep, self._name, values)
        key = configuration_key(configuration)
        self._folder.configuration(key).create(configuration.model_dump(mode="json"))
        self._trials[key] = trial
        return key

    def _tell(self, trial: FrozenTrial, configuration: ConfigurationFolder) -> None:
        """Tell the study how a configuration has ended.

        What was told once stays, because Optuna's finished trials cannot be changed: a configuration that gets more
        seeds later counts in the search by those that it had, in the tables by all. One that failed and succeeded on
        retry becomes a new trial.
        """
        status, number, place = configuration.status(), trial.number, self._id(trial)
        if trial.state == TrialState.FAIL and status.status == "finished":
            self._trials[configuration.key] = self._succeeded(trial, configuration)
        elif trial.state != TrialState.RUNNING:
            return
        elif status.status == "finished":
            self._study.tell(number, self._values(configuration))
        elif status.status == "pruned":
            # Not Trial.report: of a trial of an earlier start there is only a FrozenTrial.
            if climbs(self._sweep):
                self.report(configuration)
            elif values := self._values(configuration):  # none where it was stopped at a rung, when there were some
                self._storage.set_trial_intermediate_value(place, len(status.seeds_done), values[0])
            self._study.tell(number, state=TrialState.PRUNED)
        else:
            self._study.tell(number, state=TrialState.FAIL)

    def _succeeded(self, failed: FrozenTrial, configuration: ConfigurationFolder) -> int:
        trial = create_trial(
            params=failed.params,
            distributions=failed.distributions,
            user_attrs=failed.user_attrs,
            values=self._values(configuration),
        )
        return self._storage.create_new_trial(self._study_id, trial)

    def _values(self, configuration: ConfigurationFolder) -> list[float]:
        results, objective = configuration.results(), self._sweep.objective.racing
        values = [objective_value(results, objective, metric) for metric in objective.all_metrics]
        return [value for value in values if value is not None]
