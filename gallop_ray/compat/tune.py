"""Ray Tune: keeps it fast and small over thousands of configurations; the run folders remember what has ended."""

import inspect
from functools import partial
from operator import contains
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler

from gallop_ray.compat.probe import require

_TRIALS = 64  # ended trials are dropped when Tune knows more than this
SETS = ("_stopped_trials", "_failed_trials", "_trials_to_cache")
METADATA = "_trial_metadata"


def probe() -> None:
    """Raises Incompatible."""
    source = inspect.getsource(TuneController)
    require("ray", {f"tune.TuneController.{n}": partial(contains, source, f"self.{n}") for n in (*SETS, METADATA)})


class DroppingScheduler(FIFOScheduler):
    """First come, first served; drops trials that have ended.

    Tune iterates over its trials several times per step, which dominates a step when there are thousands, and keeps
    tens of kilobytes of each. A scheduler is what Tune passes its controller to. Attributes that another version names
    differently are left alone.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Called in every step."""
        drop_ended_trials(getattr(tune_controller, "_tune_controller", tune_controller))
        return super().choose_trial_to_run(tune_controller)


def drop_ended_trials(controller: Any) -> None:
    """Remove ended trials from everything that a TuneController keeps about its trials."""
    trials = controller.get_trials()
    if len(trials) <= _TRIALS:
        return
    # In place, because others hold the list. The last one stays: Tune takes an end without any trial for an error.
    ended = [each for each in trials[:-1] if each.is_finished()]
    trials[:] = [each for each in trials[:-1] if not each.is_finished()] + trials[-1:]
    for each in ended:
        for name in SETS:
            getattr(controller, name, set()).discard(each)
        getattr(controller, METADATA, {}).pop(each.trial_id, None)


class QuietProgress(TrialProgressCallback):
    """Replaces Tune's own callback, which prints nothing with verbose=0 but keeps every trial."""

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        """Keep nothing."""

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Keep nothing."""
