"""How a sweep ends before its time: SIGTERM, or `gallop-ray stop --now`, as an exception in the driver."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from gallop_ray.tracking import control
from gallop_ray.tracking.records import SweepFolder


class Terminated(KeyboardInterrupt):
    """SIGTERM, as `ray job stop` sends it three seconds before it kills."""


class StoppedNow(KeyboardInterrupt):
    """The user asked for it."""


@contextmanager
def ending_when_told(folder: SweepFolder) -> Iterator[None]:
    """While this is open Terminated or StoppedNow is raised in the main thread when the time has come."""

    told: list[KeyboardInterrupt] = []

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what has to be done now is done once
        told.append(StoppedNow() if control.asked(folder) == "stop now" else Terminated())
        raise told[0]

    before = signal.signal(signal.SIGTERM, end)
    over = threading.Event()
    threading.Thread(target=_watch, args=(folder, over), name="stop-watch", daemon=True).start()
    try:
        yield
    except KeyboardInterrupt as error:
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
