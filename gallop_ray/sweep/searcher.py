"""Between Tune, which executes, and the studies, which remember."""

import time
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from gallop_ray.sweep.halt import HALTED
from gallop_ray.sweep.pool import Room


class SlotSearcher(Searcher):
    """Hands Tune the keys of configurations to run.

    No more are under way than there is room for in the slots, so that none is chosen before its time.

    Args:
        stage: of the runs, SEARCH or CONFIRMATION.
        take: gives the next key; None when there is no other.
        over: is told that a configuration's trial has ended; whether the configuration is over, too.
        deadline: after which nothing is begun, in seconds since 1970.
        spare: slots that are needed afterwards.
    """

    def __init__(
        self,
        stage: str,
        take: Callable[[], str | None],
        over: Callable[[str], bool],
        room: Room,
        deadline: float | None = None,
        spare: int = 0,
    ) -> None:
        super().__init__()
        self._stage, self._take, self._over = stage, take, over
        self._room, self._deadline, self._spare = room, deadline, spare
        self._keys: dict[str, str] = {}
        self._ended = False

    def suggest(self, trial_id: str) -> Any:
        """The next configuration's key, FINISHED, or None while there is no room."""
        if self._deadline is not None and time.time() > self._deadline:
            self._ended = True
        if not self._ended and len(self._keys) >= self._room.slots():
            return None
        key = None if self._ended else self._take()
        if key is None:
            self._ended = True
            self._shrink()
            return Searcher.FINISHED
        self._keys[trial_id] = key
        return {"key": key, "stage": self._stage}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended. What it found is read from its run folders."""
        key = self._keys.pop(trial_id)
        if not error and not (result or {}).get(HALTED):
            # A trial that ended before its configuration was told to stop, or had no time: nor has another.
            self._ended = not self._over(key) or self._ended
        if self._ended:
            self._shrink()

    def _shrink(self) -> None:
        self._room.shrink(max(len(self._keys), self._spare))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: run folders and the journal are the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: every start builds a fresh Tuner."""
