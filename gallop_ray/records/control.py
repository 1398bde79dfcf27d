"""What is asked of a sweep while it runs, and by whom it is run: control.json and driver.json of its folder.

Commands write control.json; the driver and its trials look at it every half second. It speaks to one driver: the next
one begins without it.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.disk.locks import Lock, is_held
from gallop_ray.records.files import Record, write_json
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.shapes import Shape, integer, number, one_of, text

Asked = Literal["pause", "stop", "stop now"]

LOOK_SECONDS = 0.5
_LOCK = ".lock"
_DRIVER = Shape(known={"host": text, "pid": integer, "started": number, "slots": integer})
_ASKED = Shape(needed={"asked": one_of("pause", "stop", "stop now")})


class Terminated(KeyboardInterrupt):
    """SIGTERM, as `ray job stop` sends it three seconds before it kills."""


class StoppedNow(KeyboardInterrupt):
    """The user asked for it."""


@contextmanager
def alone(folder: SweepFolder) -> Iterator[None]:
    """While this is open no other process runs or changes the sweep.

    ValueError where one does already, and where the storage has no locks.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder.path / _LOCK)
    if not lock.acquire(timeout=1):  # the commands that look whether it is locked hold it for a moment
        raise ValueError(f"{folder.path} is being run by another process; wait for it, or stop it first")
    try:
        yield
    finally:
        lock.release()


def begin(folder: SweepFolder) -> None:
    """Note that this process, which holds the lock, runs the sweep; what its predecessor was asked is void."""
    (folder.path / "control.json").unlink(missing_ok=True)
    write_json(folder.path / "driver.json", {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()})


def note_slots(folder: SweepFolder, slots: int) -> None:
    """Note how many slots this process has started."""
    write_json(folder.path / "driver.json", {**_read(folder, "driver.json", _DRIVER), "slots": slots})


def driver(folder: SweepFolder) -> Record | None:
    """Host, pid and start of the process that runs the sweep; None while none does."""
    return _read(folder, "driver.json", _DRIVER) if is_held(folder.path / _LOCK) else None


def asked(folder: SweepFolder) -> Asked | None:
    """What the driver has been asked; None where it simply continues."""
    what: Asked | None = _read(folder, "control.json", _ASKED).get("asked")
    return what


def ask(folder: SweepFolder, what: Asked | None) -> None:
    """Ask the driver; None takes back what it was asked."""
    if what is None:
        (folder.path / "control.json").unlink(missing_ok=True)
    else:
        write_json(folder.path / "control.json", {"asked": what, "time": time.time()})


def _read(folder: SweepFolder, name: str, shape: Shape) -> Record:
    """Empty where there is none, and where it is damaged, which is said once."""
    try:
        return shape.read(folder.path / name) or {}
    except Damaged as error:
        note_damage(error.path, error.reason, "it counts as not there")
        return {}
