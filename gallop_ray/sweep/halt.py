"""Stopping a sweep before its end: from the trial that finds the reason to the driver, by way of Tune."""

from pathlib import Path
from typing import Any

from ray import tune

from gallop_ray.sweep.failures import described, free_bytes

HALTED, MISTAKE = "halted", "mistake"
"""In a trial's result: why the sweep has to stop, and whether the user has to mend what was asked."""


class Halted(Exception):
    """The sweep has to stop; what has finished is kept, and the same command goes on from there."""

    def __init__(self, reason: str, mistake: bool = False) -> None:
        super().__init__(reason)
        self.mistake = mistake


class _OutOfTune(BaseException):
    """No Exception, which Tune would wait for its trials before it let through."""


class Watch(tune.Callback):
    """Ends Tune's loop as soon as a trial says that the sweep has to stop."""

    def __init__(self) -> None:
        self.halted: Halted | None = None

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A seed has ended."""
        if reason := result.get(HALTED):
            self.halted = Halted(reason, result[MISTAKE])

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        """Outside of what Tune takes for a failure of a trial."""
        if self.halted:
            raise _OutOfTune

    def fit(self, tuner: tune.Tuner) -> None:
        """Run the tuner to its end, or raise Halted."""
        try:
            tuner.fit()
        except _OutOfTune:
            assert self.halted is not None
            raise self.halted from None


def no_space(folder: Path, error: object) -> Halted:
    """A full disk, and how full."""
    return Halted(f"no space left for {folder}: {described(free_bytes(folder))} are free ({error}); make space")
