"""A lease: which process may write into a sweep that lies in a bucket, where nothing can be locked.

An object that its owner renews. Whoever finds it unchanged for longer than it is valid takes it over. Both by
compare-and-swap, so that one wins; no clocks are compared. An owner that has lost it writes nothing more.
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

from gallop_ray.disk.bucket.store import Bucket, BucketTrouble, Stored
from gallop_ray.disk.bucket.tree import LEASE, Tree, tree_of
from gallop_ray.errors import Halted

_LOG = logging.getLogger(__name__)
VALID_SECONDS = 30.0
_RENEW_SECONDS = 10.0
_LOOK_SECONDS = 2.0
_CHECK_SECONDS = 10.0
_GOODBYE_SECONDS = 2.0
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
        self._tree.guard = self.check
        threading.Thread(target=self._keep, name="lease", daemon=True).start()

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
        if tag is None:
            return False
        self._tag, self._renewed = tag, begun
        return True

    def check(self) -> None:
        """Raise LeaseLost unless this process holds the lease; after a silence, that is asked first."""
        if not self._lost and time.monotonic() - self._renewed > VALID_SECONDS / 2:
            self._renew()
        if self._lost:
            raise LeaseLost(self._where)

    def release(self) -> None:
        """Give the lease back, so that the next process need not wait."""
        self._over.set()
        self._tree.guard = None
        with self._lock, suppress(BucketTrouble):
            if not self._lost:
                self._bucket.swap(self._key, self._content(released=True), self._tag, _GOODBYE_SECONDS)

    def _keep(self) -> None:
        while not self._over.wait(_RENEW_SECONDS):
            try:
                self._renew()
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
            tag = self._bucket.swap(self._key, self._content(), self._tag)
            if tag is None:
                self._lost = True
            else:
                self._tag, self._renewed = tag, begun

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
        self._checked = -_CHECK_SECONDS

    def check(self) -> None:
        """Raise LeaseLost if the sweep has been taken over; asks the bucket every few seconds at most."""
        if time.monotonic() - self._checked < _CHECK_SECONDS:
            return
        found = self._bucket.get(self._key)
        if found is None or _read(found[0]).get("id") != self._holder:
            raise LeaseLost(self._where)
        self._checked = time.monotonic()


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
        tree.guard = Borrowed(tree, folder, holder).check


def is_leased(tree: Tree, folder: Path) -> bool:
    """Whether some process runs the sweep, as far as the time of its last renewal tells."""
    found = tree.bucket.get(f"{tree.key(folder)}/{LEASE}")
    if found is None:
        return False
    held = _read(found[0])
    return not (held.get("released") or _is_gone(held) or _age(found[1]) > 2 * VALID_SECONDS)


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
