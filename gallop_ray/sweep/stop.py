"""Stopping a sweep before its end: told from outside, or for a reason that one of its trials finds."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ray import tune

from gallop_ray.disk.trouble import described_trouble, is_disk_full, is_over_quota
from gallop_ray.errors import Halted
from gallop_ray.records import control
from gallop_ray.records.control import StoppedNow, Terminated
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.machine import RetentionSpec
from gallop_ray.sweep.admission import described, files_left, free_bytes


@contextmanager
def raise_on_termination(folder: SweepFolder) -> Iterator[Callable[[Exception], None]]:
    """While this is open Terminated or StoppedNow is raised in the main thread when the time has come.

    Gives what another thread can call to end it, too: after what is caught of an interrupt that error is raised.
    """

    told: list[BaseException] = []
    reasons: list[Exception] = []

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what has to be done now is done once
        told.append(StoppedNow() if control.asked(folder) == "stop now" else Terminated())
        raise told[0]

    def because(error: Exception) -> None:
        reasons.append(error)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    over = threading.Event()
    threading.Thread(target=_watch, args=(folder, over), name="stop-watch", daemon=True).start()
    try:
        yield because
    except KeyboardInterrupt as error:
        if reasons:
            raise reasons[0] from None
        if told and error is not told[0]:  # Ray puts a KeyboardInterrupt of its own in place of ours
            raise told[0] from error
        raise
    finally:
        over.set()
        signal.signal(signal.SIGTERM, before)


def _watch(folder: SweepFolder, over: threading.Event) -> None:
    while not over.wait(control.LOOK_SECONDS):
        with suppress(OSError):  # a network disk that hiccups is asked again
            if control.asked(folder) == "stop now":
                os.kill(os.getpid(), signal.SIGTERM)
                return


HALTED, MISTAKE, WARNING = "halted", "mistake", "warning"
"""In a trial's result: why the sweep has to stop, whether the user has to change what was asked, what to show."""


class _OutOfTune(BaseException):
    """No Exception, which Tune would wait for its trials before it let through."""


class Watch(tune.Callback):
    """Ends Tune's loop as soon as a trial says that the sweep has to stop, or the base model cannot be measured.

    The first warning is shown.

    base: ends with the measurement of the base model.
    """

    def __init__(self, base: Future[None], note: Callable[[str], None]) -> None:
        self.halted: Halted | None = None
        self._base, self._note, self._warned = base, note, False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores its callbacks for a restoration that never happens, and a display cannot be stored."""
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A seed has ended."""
        if reason := result.get(HALTED):
            self.halted = Halted(reason, result[MISTAKE])
        if (warning := result.get(WARNING)) and not self._warned:
            self._warned = True
            self._note(warning)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Outside of what Tune takes for a failure of a trial."""
        if self.halted or self._unmeasured():
            raise _OutOfTune

    def fit(self, tuner: tune.Tuner) -> None:
        """Run the tuner to its end, or raise Halted."""
        try:
            tuner.fit()
        except _OutOfTune:
            error = self.halted or self._unmeasured()
            assert error is not None
            raise error from None

    def _unmeasured(self) -> BaseException | None:
        return self._base.exception() if self._base.done() else None


def no_space(folder: SweepFolder, retention: RetentionSpec, needed: float) -> Halted:
    """A full disk: how much there is, and how much a run needs as far as that is known."""
    if not files_left(folder):
        return Halted(f"no space left in {folder.path}: the disk takes no more files (inodes); remove some")
    free = max(0, free_bytes(folder, retention))
    # What a run has just failed to write is removed again, and others write, too: the disk may have more by now.
    wants = f", a run needs about {described(needed)} with its checkpoints" if needed > free else ""
    return Halted(f"no space left in {folder.path}: {described(free)} are free{wants}; make space")


def refused_by_storage(folder: SweepFolder, retention: RetentionSpec, needed: float, error: BaseException) -> Halted:
    """What the storage refuses, as the one sentence of why the sweep stops."""
    if isinstance(error, Halted):
        return error
    if not is_disk_full(error) or is_over_quota(error):
        return Halted(described_trouble(error, folder.path))
    try:
        return no_space(folder, retention, needed)
    except OSError:  # what is gone cannot be asked how much there is
        return Halted(described_trouble(error, folder.path))
