"""Keeps the output of libraries during a sweep separate from the sweep's own.

Ray, MLflow and others write tracebacks and log lines to the standard streams, from Python, C++ and threads, even for
what is retried a moment later with success. The descriptors of both streams are redirected to a file; our own text
goes to copies of the original ones.
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
    """Context manager: only what is written to the yielded terminal is shown, our loggers' warnings among it.

    folder: the sweep's, for the file; created if missing. Raises OSError where it cannot be.
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
            with suppress(OSError):  # buffered output of libraries, on a full disk
                stream.flush()
        sys.stdout, sys.stderr = before
        for descriptor, old in zip((1, 2), kept, strict=True):
            os.dup2(old, descriptor)
        os.close(log)


def _text(descriptor: int, like: TextIO) -> TextIO:
    """A text stream for a descriptor, configured like another stream."""
    return open(descriptor, "w", buffering=1, encoding=like.encoding, errors=like.errors)


class _Lenient(TextIOWrapper):
    """A stream that never fails: printing a warning must not raise because the disk under this file is full."""

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
    """Prints our warnings without any decoration."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        with suppress(OSError):
            self._terminal.warn(record.getMessage())
