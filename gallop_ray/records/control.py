"""Commands to a running sweep, and which process runs it: control.json and driver.json of its folder.

Commands write control.json; the driver and its trials look at it every half second. It is for one driver: the next one
starts without it.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

from gallop_ray.disk.damage import Damaged
from gallop_ray.disk.locks import Lock, is_held
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.typed import Number, StoredRecord, note_unread, write_record

Asked = Literal["pause", "stop", "stop now"]

LOOK_SECONDS = 0.5
_LOCK = ".lock"


class Driver(StoredRecord):
    """driver.json: the process that runs a sweep, or ran it last. `slots`: how many it started; null before."""

    host: str | None = None
    pid: int | None = None
    started: Number | None = None
    slots: int | None = None


class _Command(StoredRecord):
    """control.json."""

    asked: Asked


_Read = TypeVar("_Read", bound=StoredRecord)


class Terminated(KeyboardInterrupt):
    """SIGTERM, as `ray job stop` sends it three seconds before it kills."""


class StoppedNow(KeyboardInterrupt):
    """The user has called `gallop-ray stop --now`."""


@contextmanager
def alone(folder: SweepFolder) -> Iterator[None]:
    """Context manager: no other process runs or changes the sweep.

    Raises ValueError where one already does, and where the storage has no locks.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder.path / _LOCK)
    if not lock.acquire(timeout=1):  # commands that test the lock hold it for a moment
        raise ValueError(f"{folder.path} is being run by another process; wait for it, or stop it first")
    try:
        yield
    finally:
        lock.release()


def begin(folder: SweepFolder) -> None:
    """Record that this process, which holds the lock, runs the sweep; commands to its predecessor are dropped."""
    (folder.path / "control.json").unlink(missing_ok=True)
    write_record(
        folder.path / "driver.json", {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
    )


def note_slots(folder: SweepFolder, slots: int) -> None:
    """Note how many slots this process has started."""
    known = last_driver(folder)
    write_record(folder.path / "driver.json", {**(known.as_json() if known else {}), "slots": slots})


def driver(folder: SweepFolder) -> Driver | None:
    """The process that runs the sweep, as far as it has been recorded; None while none does."""
    return (last_driver(folder) or Driver()) if is_held(folder.path / _LOCK) else None


def last_driver(folder: SweepFolder) -> Driver | None:
    """The process that runs the sweep, or ran it last."""
    return _read(folder.path / "driver.json", Driver)


def asked(folder: SweepFolder) -> Asked | None:
    """The command that the driver has been given; None where it simply continues."""
    found = _read(folder.path / "control.json", _Command)
    return None if found is None else found.asked


def ask(folder: SweepFolder, what: Asked | None) -> None:
    """Give the driver a command; None withdraws the last one."""
    if what is None:
        (folder.path / "control.json").unlink(missing_ok=True)
    else:
        write_record(folder.path / "control.json", {"asked": what, "time": time.time()})


def _read(path: Path, kind: type[_Read]) -> _Read | None:
    """The record; None for no file, and for an unreadable one, which is reported once."""
    try:
        return kind.read(path)
    except Damaged as error:
        note_unread(error, "it counts as not there")
        return None
