"""How far a long evaluation is: counted where batches are worked on, reported to whoever has asked."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Report = Callable[[int, int, str], None]
"""Told how many examples of how many are done, and of what the present ones are."""
_SECONDS = 2.0


class _Progress:
    def __init__(self, total: int, report: Report) -> None:
        self._total, self._report = total, report
        self._before, self._size, self._what = 0, 0, ""

    @contextmanager
    def part(self, what: str, size: int) -> Iterator[None]:
        self._size, self._what = size, what
        try:
            yield
        finally:
            self._before += size
            self._size = 0

    def tick(self, turn: int, turns: int) -> None:
        self._report(self._before + self._size * turn // turns, self._total, self._what)


_PRESENT: ContextVar[_Progress | None] = ContextVar("progress", default=None)


@contextmanager
def counting(total: int, report: Report | None) -> Iterator[None]:
    """Context manager: report on `total` examples, of which each part inside takes some."""
    before = _PRESENT.set(None if report is None else _Progress(total, report))
    try:
        yield
    finally:
        _PRESENT.reset(before)


@contextmanager
def part(what: str, size: int) -> Iterator[None]:
    """Context manager: what is done inside is of so many examples of those counted; nothing where none are."""
    if (present := _PRESENT.get()) is None:
        yield
        return
    with present.part(what, size):
        yield


def tick(turn: int, turns: int) -> None:
    """So many of the present part's batches are done."""
    if (present := _PRESENT.get()) is not None:
        present.tick(turn, turns)


def now_and_then(report: Report, seconds: float = _SECONDS) -> Report:
    """The report, at most every so many seconds, and not in the first ones."""
    last = time.monotonic()

    def at_times(done: int, total: int, what: str) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            report(done, total, what)

    return at_times
