"""Locks between processes and nodes: flock, which is released when its process ends, however it ends.

Not filelock: on a storage without flock it silently falls back to a lock file, which outlives its process.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.05
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


class NoLocks(ValueError):
    """The storage cannot lock files."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"{path.parent} is on a storage without file locks (flock: {error.strerror}), so that two processes could "
            "run one sweep unnoticed; mount it with them (Lustre: -o flock; NFS: with its lock service), or give "
            "another folder as output"
        )


class Lock:
    """An exclusive lock on a file, which is created if missing and never removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, timeout: float | None = None) -> bool:
        """Wait for the lock, up to `timeout` seconds. Returns whether it was acquired.

        Raises NoLocks where the storage has none, other OSErrors where the file cannot be opened.
        """
        until = None if timeout is None else time.monotonic() + timeout
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # Polled: a blocking flock could not end at a deadline.
            while not _taken(descriptor, fcntl.LOCK_EX, self.path):
                if until is not None and time.monotonic() > until:
                    return False
                time.sleep(_POLL_SECONDS)
            self._descriptor, descriptor = descriptor, -1
            return True
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def release(self) -> None:
        """Release the lock; does nothing if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)  # the file stays: removing it would let two processes lock two files
            self._descriptor = None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Context manager: no other process is in here with the same file. Raises as `Lock.acquire`."""
    lock = Lock(path)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock, as far as can be told; needs neither write permission nor working locks."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _taken(descriptor, fcntl.LOCK_SH, path)  # shared: readers must not take each other for the holder
    except (NoLocks, OSError):
        return False  # nothing runs on a storage without locks
    finally:
        os.close(descriptor)


def _taken(descriptor: int, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise NoLocks(path, error) from None
        raise OSError(error.errno, error.strerror, str(path)) from error
    return True
