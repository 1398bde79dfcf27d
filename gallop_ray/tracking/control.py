"""What is asked of a sweep while it runs, and by whom it is run: control.json and driver.json of its folder.

Commands write control.json; the driver and its trials look at it every half second. It speaks to one driver: the next
one begins without it.
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from gallop_ray.tracking.files import Record, read_json, write_json
from gallop_ray.tracking.records import SweepFolder

Asked = Literal["pause", "stop", "stop now"]

LOOK_SECONDS = 0.5
_LOCK = ".lock"


@contextmanager
def alone(folder: SweepFolder) -> Iterator[None]:
    """While this is open no other process runs or changes the sweep. ValueError where one does already."""
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.path / _LOCK)
    try:
        lock.acquire(timeout=1)  # the commands that look whether it is locked hold it for a moment
    except Timeout:
        raise ValueError(f"{folder.path} is being run by another process; wait for it, or stop it first") from None
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
    write_json(folder.path / "driver.json", {**(read_json(folder.path / "driver.json") or {}), "slots": slots})


def driver(folder: SweepFolder) -> Record | None:
    """Host, pid and start of the process that runs the sweep; None while none does."""
    return (read_json(folder.path / "driver.json") or {}) if _locked(folder.path / _LOCK) else None


def asked(folder: SweepFolder) -> Asked | None:
    """What the driver has been asked; None where it simply goes on."""
    found = read_json(folder.path / "control.json")
    return None if found is None else found["asked"]


def ask(folder: SweepFolder, what: Asked | None) -> None:
    """Ask the driver; None takes back what it was asked."""
    if what is None:
        (folder.path / "control.json").unlink(missing_ok=True)
    else:
        write_json(folder.path / "control.json", {"asked": what, "time": time.time()})


def _locked(path: Path) -> bool:
    """Whether a process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
