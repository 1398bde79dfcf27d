"""Records are regular files: anything else in the place of one is damage, and never blocks the reader."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gallop_ray.disk.bucket.tree import tree_of
from gallop_ray.disk.damage import Damaged

_NO_FILE = {
    errno.ELOOP: "is a symbolic link that leads back to itself",
    errno.ENOTDIR: "cannot be there: what should be its folder is a file",
    errno.ENXIO: "is a socket or a device and no file",
}


@contextmanager
def opened_regular(path: Path) -> Iterator[BinaryIO]:
    """The file, opened for reading. Raises FileNotFoundError, and Damaged for anything but a regular file."""
    # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise Damaged(path, _NO_FILE[error.errno]) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise Damaged(path, f"is a {'folder' if stat.S_ISDIR(mode) else 'pipe or a device'} and no file")
    with open(descriptor, "rb") as file:
        yield file


def read_regular(path: Path) -> bytes:
    """The contents of a file. Raises as `opened_regular`."""
    with opened_regular(path) as file:
        return file.read()


def stat_of(path: Path) -> os.stat_result | None:
    """A file's stat; None where there is no file, or cannot be one."""
    try:
        return path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, *_NO_FILE):
            return None
        raise


def remove(path: Path) -> None:
    """Remove a file, or whatever is in its place; of a file in a bucket, its object first."""
    if (tree := tree_of(path)) is not None:
        tree.removes(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
