"""Files that are there whole or not at all: a draft beside their place, synchronised, then renamed."""

import errno
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gallop_ray.disk.trouble import as_os_error

# Ours, those of earlier versions, and safetensors' own, which it leaves in the folder that it was given.
_DRAFT = re.compile(r"\.(.+\.tmp|.+\.safetensors\.\d+|tmp\w{6})")


@contextmanager
def drafted(path: Path, durable: bool = True) -> Iterator[Path]:
    """The file to write, which takes the place of `path` when this ends without an error. Its mode is the umask's.

    What the storage refuses, to a library too, is an OSError that names `path`.

    It is alone in a folder of its own: a library that writes its own temporary file beside it leaves that there, too.

    durable: so, too, after a power cut. That takes milliseconds; what decides nothing goes without.
    """
    folder = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    draft = folder / path.name
    try:
        folder.mkdir()
        draft.touch()
        mode = draft.stat().st_mode & 0o777
        yield draft
        if draft.stat().st_mode & 0o777 != mode:  # safetensors renames a private file of its own over the draft
            draft.chmod(mode)
        if durable:
            _synchronise(draft)
        os.replace(draft, path)
        if durable:
            _synchronise(path.parent)
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
        if error.errno != errno.EINVAL or not path.is_dir():  # some network disks cannot do it with folders
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def remove_drafts(folder: Path, of: str = "") -> None:
    """Remove what killed writers have left in a folder in which nobody writes just now.

    of: the name of a file, for its drafts alone, where nobody writes that.
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
    """Append bytes that end a line, all of them or none. For the file's one writer.

    Half a line that a killed writer has left at the end is cut off first. The file is opened each time, so that readers
    on other nodes of a network disk see what was added. Raises OSError, which names the file.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        before = _end_of_lines(descriptor)
        try:
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
        except OSError as error:
            with suppress(OSError):  # the next one cuts it off
                os.ftruncate(descriptor, before)
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


_BLOCK = 4096


def _end_of_lines(descriptor: int) -> int:
    """The size up to the last line that is complete, to which the file is cut."""
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
