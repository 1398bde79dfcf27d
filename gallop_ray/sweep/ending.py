"""How a sweep ends before its time: SIGTERM, or `gallop-ray stop --now`, as an exception in the driver."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from gallop_ray.tracking import control
from gallop_ray.tracking.control import StoppedNow, Terminated
from gallop_ray.tracking.records import SweepFolder


@contextmanager
def ending_when_told(folder: SweepFolder) -> Iterator[Callable[[Exception], None]]:
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
