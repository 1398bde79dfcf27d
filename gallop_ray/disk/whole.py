"""Atomic files: written as a draft next to their place, synchronised, then renamed.

Where the place is a copy of what lies in a bucket, they go there first; see disk/bucket.
"""

import errno
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gallop_ray.disk.bucket.errors import BucketTrouble
from gallop_ray.disk.bucket.tree import tree_of
from gallop_ray.disk.trouble import as_os_error

# Our drafts, those of earlier versions, and safetensors' own, which a kill leaves in the folder it was writing to.
_DRAFT = re.compile(r"\.(.+\.tmp|.+\.safetensors\.\d+|tmp\w{6})")


@contextmanager
def drafted(path: Path, durable: bool = True) -> Iterator[Path]:
    """Context manager: the draft to write, which replaces `path` on exit without an error. Its mode follows the umask.

    Errors of the storage, also inside a library, become an OSError that names `path`.

    The draft is in a folder of its own, so that temporary files that a library writes next to it are removed with it.

    durable: whether it must survive a power cut, which takes milliseconds; not needed for what decides nothing.
    """
    # A draft per writer: where two write at once, one of them wins as a whole.
    folder = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    draft = folder / path.name
    tree = tree_of(path)
    try:
        folder.mkdir()
        draft.touch()
        mode = draft.stat().st_mode & 0o777
        yield draft
        if draft.stat().st_mode & 0o777 != mode:  # safetensors renames a private file of its own over the draft
            draft.chmod(mode)
        if durable:
            _synchronise(draft)
        sent = None if tree is None else tree.before(path, draft, durable)
        os.replace(draft, path)
        if tree is not None:
            tree.wrote(path, sent, durable)
        if durable:  # the folder, too: the new name is in there, not in the file
            _synchronise(path.parent)
    except BucketTrouble:
        raise
    except Exception as error:
        if (refused := as_os_error(error)) is not None and refused.errno is not None:
            raise OSError(refused.errno, os.strerror(refused.errno), str(path)) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some network disks cannot synchronise folders
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def remove_drafts(folder: Path, of: str = "") -> None:
    """Remove drafts of killed writers from a folder in which nobody is writing.

    of: a file's name, to remove only its drafts while other files may be being written.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in [each for each in folder.iterdir() if _DRAFT.fullmatch(each.name)]:
            if not path.name.startswith(f".{of}." if of else "."):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def append(path: Path, data: bytes) -> None:
    """Append complete lines, all of the bytes or none. For the file's only writer.

    An incomplete last line that a killed writer has left is cut off first. The file is reopened each time, so that
    readers on other nodes of a network disk see what was added. Raises OSError, which names the file.
    """
    # Read as well, to find the end of the last complete line.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        before = _end_of_lines(descriptor)
        try:
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
        except OSError as error:
            with suppress(OSError):  # else the next call cuts it off
                os.ftruncate(descriptor, before)
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
    if (tree := tree_of(path)) is not None:
        tree.wrote(path)


_BLOCK = 4096


def _end_of_lines(descriptor: int) -> int:
    """Cut the file to its complete lines; their size. Reads backwards, usually a single byte."""
    size = end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - _BLOCK if end < size else end - 1)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)
    return end
