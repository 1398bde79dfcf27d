"""Commands to a running sweep, and which process runs it: control.json and driver.json of its folder.

Commands write control.json; the driver and its trials look at it every half second. It is for one driver: the next one
starts without it.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from gallop_ray.disk.bucket.address import address_of
from gallop_ray.disk.bucket.errors import BucketTrouble
from gallop_ray.disk.bucket.lease import Lease, LeaseLost, is_leased
from gallop_ray.disk.bucket.reach import reach, within
from gallop_ray.disk.bucket.tree import SHARE_SECONDS, Tree, tree_of
from gallop_ray.disk.damage import Damaged
from gallop_ray.disk.locks import Lock, is_held
from gallop_ray.disk.regular import remove
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.typed import Number, StoredRecord, note_unread, write_record

Asked = Literal["pause", "stop", "stop now"]

LOOK_SECONDS = 0.5
_BUCKET_LOOK_SECONDS = 5.0  # requests cost money
_GOODBYE_SECONDS = 1.0  # of the three between SIGTERM and SIGKILL
_LONGEST_GOODBYE_SECONDS = 10.0  # where it answers, and there is much to send
_LOCK = ".lock"
_CONTROL = "control.json"


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
    """Context manager: no other process runs or changes the sweep. Of a bucket, its records are here then.

    Raises ValueError where one already does, and where the storage has no locks.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder.path / _LOCK)
    if not lock.acquire(timeout=1):  # commands that test the lock hold it for a moment
        raise ValueError(f"{address_of(folder.path)} is being run by another process; wait for it, or stop it first")
    try:
        if (tree := tree_of(folder.path)) is None:
            yield
        else:
            with _leased(tree, folder):
                yield
    finally:
        lock.release()


_LEASES: dict[Path, Lease] = {}


@contextmanager
def _leased(tree: Tree, folder: SweepFolder) -> Iterator[None]:
    reach(tree.address)
    lease = _LEASES[folder.path] = Lease(tree, folder.path)
    with tree.waiting(SHARE_SECONDS):  # now a wrong address is likelier than an outage
        lease.acquire()
    over = threading.Event()
    try:
        with tree.waiting(SHARE_SECONDS):
            tree.pull(folder.path)
        threading.Thread(target=_follow, args=(tree, folder, over), name="control", daemon=True).start()
        yield
        tree.flush()
    except BaseException:
        with suppress(BucketTrouble, LeaseLost):
            within(_LONGEST_GOODBYE_SECONDS, partial(tree.flush, patience=_GOODBYE_SECONDS))
        raise
    finally:
        over.set()
        lease.release()
        del _LEASES[folder.path]


def _follow(tree: Tree, folder: SweepFolder, over: threading.Event) -> None:
    """Bring commands here, where the driver and its trials look for them."""
    while not over.wait(_BUCKET_LOOK_SECONDS):
        with suppress(OSError):  # whoever writes next waits for the bucket
            tree.refresh(folder.path / _CONTROL, patience=SHARE_SECONDS)


def when_taken_over(folder: SweepFolder, tell: Callable[[Exception], None]) -> None:
    """Have a driver told, from another thread, that it has lost its sweep in a bucket to another one."""
    if (lease := _LEASES.get(folder.path)) is not None:
        lease.told = tell


def begin(folder: SweepFolder) -> None:
    """Record that this process, which holds the lock, runs the sweep; commands to its predecessor are dropped."""
    remove(folder.path / _CONTROL)
    write_record(
        folder.path / "driver.json", {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
    )


def note_slots(folder: SweepFolder, slots: int) -> None:
    """Note how many slots this process has started."""
    known = last_driver(folder)
    write_record(folder.path / "driver.json", {**(known.as_json() if known else {}), "slots": slots})


def driver(folder: SweepFolder) -> Driver | None:
    """The process that runs the sweep, as far as it has been recorded; None while none does."""
    tree = tree_of(folder.path)
    runs = is_held(folder.path / _LOCK) if tree is None else is_leased(tree, folder.path)
    return (last_driver(folder) or Driver()) if runs else None


def last_driver(folder: SweepFolder) -> Driver | None:
    """The process that runs the sweep, or ran it last."""
    return _read(folder.path / "driver.json", Driver)


def asked(folder: SweepFolder) -> Asked | None:
    """The command that the driver has been given; None where it simply continues."""
    found = _read(folder.path / _CONTROL, _Command)
    return None if found is None else found.asked


def ask(folder: SweepFolder, what: Asked | None) -> None:
    """Give the driver a command; None withdraws the last one."""
    if what is None:
        remove(folder.path / _CONTROL)
    else:
        write_record(folder.path / _CONTROL, {"asked": what, "time": time.time()})


def _read(path: Path, kind: type[_Read]) -> _Read | None:
    """The record; None for no file, and for an unreadable one, which is reported once."""
    try:
        return kind.read(path)
    except Damaged as error:
        note_unread(error, "it counts as not there")
        return None
