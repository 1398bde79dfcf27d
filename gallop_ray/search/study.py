"""What to try next: one Optuna study per method, which is told what the run folders say."""

import warnings
from collections.abc import Collection
from functools import partial

import optuna

from gallop_ray.records.folders import SweepFolder
from gallop_ray.search.method_study import MethodStudy
from gallop_ray.search.storage import open_storage, retry_while_away
from gallop_ray.spec.plan import plan_sweep
from gallop_ray.spec.schema import Sweep


class Studies:
    """The studies of a sweep's methods, asked in turn so that none is starved. For one process at a time."""

    def __init__(self, sweep: Sweep, folder: SweepFolder) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._folder = folder
        storage = open_storage(folder, sweep)
        self._studies = {
            plan.method: MethodStudy(sweep, plan.method, plan.configurations, folder, storage)
            for plan in plan_sweep(sweep, None).methods
        }
        self._leftover = [key for study in self._studies.values() for key in study.unfinished]

    @property
    def exhausted(self) -> bool:
        """Whether next() has nothing left to hand out."""
        return not self._leftover and all(study.exhausted for study in self._studies.values())

    def next(self) -> str | None:
        """The key of the next configuration to run, its folder created; None when the budget has been handed out.

        Configurations that an earlier start left unfinished come first.
        """
        if self._leftover:
            return self._leftover.pop(0)
        for study in sorted(self._studies.values(), key=lambda study: study.tried):
            if not study.exhausted and (key := retry_while_away(study.begin)):
                return key
        return None

    def withhold(self, keys: Collection[str]) -> None:
        """Do not hand out these configurations that an earlier start left unfinished: they wait at a rung."""
        self._leftover = [key for key in self._leftover if key not in keys]

    def report(self, key: str) -> None:
        """Tell a configuration's study what was measured at the rungs that it has climbed."""
        configuration = self._folder.configuration(key)
        retry_while_away(partial(self._studies[configuration.method].report, configuration))

    def tell(self, key: str) -> bool:
        """Tell a configuration's study how it ended, if the configuration is over. Returns whether it is."""
        configuration = self._folder.configuration(key)
        over = configuration.status().over
        if over:
            retry_while_away(partial(self._studies[configuration.method].tell, configuration))
        return over
