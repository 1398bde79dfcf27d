"""How long things will take, by how long they have taken."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean


class RunSeconds:
    """The mean time of a run of each method; of a method that has finished none, the mean of all."""

    def __init__(self, finished: Iterable[tuple[str, float]]) -> None:
        """Takes (method, seconds) of each finished run."""
        self._by_method: dict[str, list[float]] = defaultdict(list)
        for method, seconds in finished:
            self._by_method[method].append(seconds)

    def of(self, method: str) -> float | None:
        """Null before any run has finished."""
        known = self._by_method.get(method) or [each for runs in self._by_method.values() for each in runs]
        return fmean(known) if known else None


def slot_seconds_left(
    seconds: RunSeconds, runs_left: Mapping[str, int], going_on: Iterable[tuple[str, float]]
) -> float | None:
    """Seconds of one slot for the runs that are still to end; null where nothing is known of a run's time.

    Args:
        seconds: what a run takes.
        runs_left: of each method, those that go on among them.
        going_on: method and seconds since the start, for each run that goes on.
    """
    needed = {method: seconds.of(method) for method, count in runs_left.items() if count}
    if None in needed.values():
        return None
    work = sum(runs_left[method] * (each or 0.0) for method, each in needed.items())
    return work - sum(min(since, needed.get(method) or 0.0) for method, since in going_on)
