"""Stopping a sweep before its end: on request, or for a reason that one of its trials finds."""

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
    """Context manager: SIGTERM, or `stop --now`, raises Terminated or StoppedNow in the main thread.

    Yields a function with which another thread ends the sweep: the error that it passes is raised in their place.
    """

    told: list[BaseException] = []
    reasons: list[Exception] = []

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the cleanup
        told.append(StoppedNow() if control.asked(folder) == "stop now" else Terminated())
        raise told[0]

    def because(error: Exception) -> None:
        # By a signal, the only way to interrupt the main thread inside a blocking call of Ray.
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
        if told and error is not told[0]:  # Ray replaces our KeyboardInterrupt by one of its own
            raise told[0] from error
        raise
    finally:
        over.set()
        signal.signal(signal.SIGTERM, before)


def _watch(folder: SweepFolder, over: threading.Event) -> None:
    while not over.wait(control.LOOK_SECONDS):
        with suppress(OSError):  # a network disk's hiccup: look again
            if control.asked(folder) == "stop now":
                os.kill(os.getpid(), signal.SIGTERM)
                return


HALTED, MISTAKE, WARNING = "halted", "mistake", "warning"
"""Keys of a trial's result: why the sweep has to stop, whether it is the user's mistake, and a warning to show."""


class _OutOfTune(BaseException):
    """Not an Exception: for those Tune waits until its trials have ended."""


class Watch(tune.Callback):
    """Ends Tune's loop as soon as a trial asks to stop the sweep, or the base model cannot be measured.

    Only the first warning is shown.

    base: completes with the measurement of the base model.
    """

    def __init__(self, base: Future[None], note: Callable[[str], None]) -> None:
        self.halted: Halted | None = None
        self._base, self._note, self._warned = base, note, False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for a restore that never happens, and a display cannot be pickled."""
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Called when a seed has ended."""
        if reason := result.get(HALTED):
            self.halted = Halted(reason, result[MISTAKE])
        if (warning := result.get(WARNING)) and not self._warned:
            self._warned = True
            self._note(warning)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Raise here, where Tune does not take an exception for a trial's failure."""
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
    """The error for a full disk: how much is free, and how much a run needs, if known."""
    if not files_left(folder):
        return Halted(f"no space left in {folder.path}: the disk takes no more files (inodes); remove some")
    free = max(0, free_bytes(folder, retention))
    # What a run has just failed to write is removed again, and others write, too: by now there may be enough.
    wants = f", a run needs about {described(needed)} with its checkpoints" if needed > free else ""
    return Halted(f"no space left in {folder.path}: {described(free)} are free{wants}; make space")


def refused_by_storage(folder: SweepFolder, retention: RetentionSpec, needed: float, error: BaseException) -> Halted:
    """An error of the storage as the one-sentence reason why the sweep stops."""
    if isinstance(error, Halted):
        return error
    if not is_disk_full(error) or is_over_quota(error):
        return Halted(described_trouble(error, folder.path))
    try:
        return no_space(folder, retention, needed)
    except OSError:  # a storage that is gone cannot say how much is free
        return Halted(described_trouble(error, folder.path))
