"""A lease: which process may write into a sweep that lies in a bucket, where nothing can be locked.

An object that its owner renews. Whoever finds it unchanged for longer than it is valid takes it over. Both by
compare-and-swap, so that one wins; no clocks are compared. An owner that has lost it writes nothing more: it asks
before every try of a request, once for those that begin at the same time, and who takes over waits until what was
under way then has ended.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gallop_ray.disk.bucket.errors import BucketAway, BucketTrouble
from gallop_ray.disk.bucket.reach import within
from gallop_ray.disk.bucket.store import SMALL_SECONDS, Bucket, Stored
from gallop_ray.disk.bucket.tree import LEASE, Tree, tree_of
from gallop_ray.errors import Halted

_LOG = logging.getLogger(__name__)
VALID_SECONDS = 30.0
_RENEW_SECONDS = 10.0
_LOOK_SECONDS = 2.0
_AGAIN_SECONDS = 1.0
_UNDER_WAY_SECONDS = SMALL_SECONDS
_GOODBYE_SECONDS = 2.0
_SEEN_SECONDS = _RENEW_SECONDS + SMALL_SECONDS / 2
_CLOCKS_DIFFER_SECONDS = 3600.0
_NAME = ".lease"
LEASE_VARIABLE = "GALLOP_RAY_LEASE"
"""Names the lease under which a process of a sweep writes."""


class LeaseLost(Halted):
    """Another process has taken the sweep over."""

    def __init__(self, address: str) -> None:
        super().__init__(f"another process has taken over {address}, so this one writes nothing more")


class Lease:
    """The lease of one sweep, held from `acquire` to `release` and renewed by a thread."""

    def __init__(self, tree: Tree, folder: Path) -> None:
        self._tree, self._folder = tree, folder
        self._key = f"{tree.key(folder)}/{LEASE}"
        self._bucket = Bucket(tree.address)  # of its own: renewing must not wait for other requests
        self.id = uuid.uuid4().hex
        self._tag = ""
        self._renewed = 0.0
        self._count = 0
        self._lost = False
        self._taken_over = False
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.told: Callable[[Exception], None] | None = None
        """Called once if the lease is lost."""

    def acquire(self) -> None:
        """Take the lease, waiting for a silent owner's to run out. Raises ValueError where the owner is alive."""
        seen: str | None = None
        since = time.monotonic()
        while not self._take(seen, since):
            found = self._bucket.get(self._key, self._tree.bucket.patience)
            if found is None:
                continue
            tag = found[1].tag
            if seen is not None and tag != seen:
                raise ValueError(f"{self._where} is being run by {_whose(_read(found[0]))}; stop that first")
            if seen is None:
                seen, since = tag, time.monotonic()
                _LOG.warning(
                    "%s was last run by %s; waiting up to %.0f s to see whether that is over",
                    self._where,
                    _whose(_read(found[0])),
                    VALID_SECONDS,
                )
            time.sleep(_LOOK_SECONDS)
        (self._folder / _NAME).write_text(self.id)
        self._tree.bucket.guard = self.check
        threading.Thread(target=self._keep, name="lease", daemon=True).start()
        if self._taken_over:
            try:
                time.sleep(_UNDER_WAY_SECONDS)
            except BaseException:
                self.release()
                raise

    def _take(self, seen: str | None, since: float) -> bool:
        """Try to take it: where there is none, where it was given back, and after its owner's silence."""
        found = self._bucket.get(self._key, self._tree.bucket.patience)
        begun = time.monotonic()
        if found is None:
            tag = self._bucket.create(self._key, self._content(), self._tree.bucket.patience)
        else:
            held, stored = _read(found[0]), found[1]
            silent = seen == stored.tag and time.monotonic() - since > VALID_SECONDS
            if not (held.get("released") or silent or _is_gone(held)):
                return False
            tag = self._bucket.swap(self._key, self._content(), stored.tag, self._tree.bucket.patience)
            self._taken_over = not held.get("released")
        if tag is None:
            return False
        self._tag, self._renewed = tag, begun
        return True

    def check(self) -> None:
        """Raise LeaseLost unless this process holds the lease; after a silence, that is asked first, once.

        BucketAway where there is no answer.
        """
        if not self._lost and time.monotonic() - self._renewed > VALID_SECONDS / 2:
            self._renew()
        if self._lost or self._over.is_set():
            raise LeaseLost(self._where)

    def release(self) -> None:
        """Give the lease back, so that the next process need not wait; if the bucket answers soon."""
        self._over.set()
        within(_GOODBYE_SECONDS, self._give_back)

    def _give_back(self) -> None:
        with self._lock, suppress(BucketTrouble):
            released = self._content(released=True)
            if not self._lost and self._bucket.swap(self._key, released, self._tag, _GOODBYE_SECONDS):
                self._tree.bucket.guard = None  # from now on as a process that runs no sweep, and may write a report

    def _keep(self) -> None:
        pause = _RENEW_SECONDS
        while not self._over.wait(pause):
            pause = _RENEW_SECONDS
            try:
                self._renew()
            except BucketAway:
                pause = min(pause, _AGAIN_SECONDS)
            except BucketTrouble as error:  # credentials that have run out: what is written next says so
                _LOG.warning("the lease of %s cannot be renewed: %s", self._where, error.strerror)
            if self._lost:
                if self.told is not None and not self._over.is_set():
                    self.told(LeaseLost(self._where))
                return

    def _renew(self) -> None:
        with self._lock:
            if self._over.is_set() or self._lost:
                return
            begun = time.monotonic()
            tag = self._bucket.swap(self._key, self._content(), self._tag, patience=0) or self._mine()
            if tag is None:
                self._lost = True
            else:
                self._tag, self._renewed = tag, begun

    def _mine(self) -> str | None:
        """The lease's version if this process has written it: an earlier renewal's, whose answer was lost."""
        found = self._bucket.get(self._key, patience=0)
        return found[1].tag if found is not None and _read(found[0]).get("id") == self.id else None

    def _content(self, released: bool = False) -> bytes:
        self._count += 1
        who = {"host": socket.gethostname(), "pid": os.getpid(), "boot": _boot(), "started": _started(os.getpid())}
        return json.dumps({"id": self.id, **who, "renewals": self._count, "released": released}).encode()

    @property
    def _where(self) -> str:
        return f"{self._tree.address}/{self._folder.name}"


class Borrowed:
    """Another process's lease, under which this one writes: a trial, or a worker."""

    def __init__(self, tree: Tree, folder: Path, holder: str) -> None:
        self._bucket, self._key, self._holder = tree.bucket, f"{tree.key(folder)}/{LEASE}", holder
        self._where = f"{tree.address}/{folder.name}"

    def check(self) -> None:
        """Raise LeaseLost if the sweep has been taken over; BucketAway where there is no answer.

        Asks the bucket every time: the sweep may have been taken over just now.
        """
        found = self._bucket.get(self._key, patience=0)
        if found is None or _read(found[0]).get("id") != self._holder:
            raise LeaseLost(self._where)


def holder_of(folder: Path) -> str | None:
    """The id of the lease under which a driver on this machine runs a sweep."""
    try:
        return (folder / _NAME).read_text()
    except OSError:
        return None


def borrow(folder: Path) -> None:
    """Let this process write into a sweep as long as the driver's lease lasts; nothing outside of buckets.

    The driver says which it is by an environment variable, as everything that is entrusted to other processes.
    """
    if (tree := tree_of(folder)) is not None and (holder := os.environ.get(LEASE_VARIABLE)):
        tree.bucket.guard = Borrowed(tree, folder, holder).check


def is_of_driver(folder: Path) -> bool:
    """Whether the copies that this process sees are those of the driver under whose lease it writes: up to date."""
    lease = os.environ.get(LEASE_VARIABLE)
    return lease is not None and holder_of(folder) == lease


def is_leased(tree: Tree, folder: Path) -> bool:
    """Whether some process runs the sweep.

    The time of its last renewal tells, except where that is not so long ago that clocks cannot differ by as much: then
    it is seen to renew the lease, or not to.
    """
    key = f"{tree.key(folder)}/{LEASE}"
    found = tree.bucket.get(key)
    if found is None:
        return False
    held, age = _read(found[0]), _age(found[1])
    if held.get("released") or _is_gone(held) or age > _CLOCKS_DIFFER_SECONDS:
        return False
    if abs(age) <= VALID_SECONDS:
        return True
    time.sleep(_SEEN_SECONDS)
    later = tree.bucket.get(key)
    return later is not None and later[1].tag != found[1].tag and not _read(later[0]).get("released")


def _age(stored: Stored) -> float:
    return (datetime.now(UTC) - stored.modified).total_seconds()


def _read(data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _whose(held: Mapping[str, Any]) -> str:
    return f"process {held.get('pid')} on {held.get('host')}"


def _is_gone(held: Mapping[str, Any]) -> bool:
    """Whether the owner was a process of this very machine that no longer exists: no need to wait for it."""
    if held.get("host") != socket.gethostname() or held.get("boot") != _boot() or not held.get("boot"):
        return False
    return _started(int(held.get("pid") or 0)) != held.get("started")


def _boot() -> str | None:
    """This machine's start, and the space of its process numbers, of which containers have their own."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process began, in the kernel's ticks, by which a reused number is told from the first; None without."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
