"""What libraries print while a sweep runs, kept apart from what the sweep itself says.

Ray, MLflow and others write tracebacks and log lines to the standard streams, from Python, C++ and threads, also of
what is repeated a moment later and ends well. Of both streams the descriptors lead to a file; our own text goes to
copies of what they were.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from gallop_ray.reporting.terminal import Terminal

LOG = "libraries.log"
_OURS = "gallop_ray"


@contextmanager
def libraries_apart(folder: Path) -> Iterator[Terminal]:
    """While this is open only what is written to the given terminal reaches it, as our loggers' warnings are.

    folder: of the sweep, in which the file is; made where it is not there. OSError where it cannot be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    with suppress(OSError):
        os.write(log, f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} pid {os.getpid()}\n".encode())
    before = sys.stdout, sys.stderr
    for stream in before:
        stream.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    terminal = Terminal(_text(kept[0], sys.stdout), _text(kept[1], sys.stderr))
    handler = _Ours(terminal)
    logging.getLogger(_OURS).addHandler(handler)
    try:
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        sys.stdout = sys.stderr = _Lenient(os.dup(log))
        yield terminal
    finally:
        logging.getLogger(_OURS).removeHandler(handler)
        for stream in (*before, terminal.out, terminal.err):
            with suppress(OSError):  # what a library has left to write, on a disk that is full
                stream.flush()
        sys.stdout, sys.stderr = before
        for descriptor, old in zip((1, 2), kept, strict=True):
            os.dup2(old, descriptor)
        os.close(log)


def _text(descriptor: int, like: TextIO) -> TextIO:
    """The stream of a descriptor, as another one is."""
    return open(descriptor, "w", buffering=1, encoding=like.encoding, errors=like.errors)


class _Lenient(TextIOWrapper):
    """A stream that never fails: a full disk under this file is no reason to fail for whoever prints a warning."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(
            os.fdopen(descriptor, "wb", buffering=0), encoding="utf-8", errors="replace", write_through=True
        )

    def write(self, text: str) -> int:
        """As any stream's."""
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """As any stream's."""
        with suppress(OSError):
            super().flush()


class _Ours(logging.Handler):
    """Our warnings, without anything around them."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        with suppress(OSError):
            self._terminal.warn(record.getMessage())
