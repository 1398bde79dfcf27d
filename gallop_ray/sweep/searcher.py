"""Between Tune, which executes, and the studies, which remember."""

import time
from typing import Any

from ray.tune.search import Searcher

from gallop_ray.sweep.halt import HALTED
from gallop_ray.sweep.pool import Room
from gallop_ray.sweep.study import Studies


class StudySearcher(Searcher):
    """Hands Tune the keys of configurations to run, and tells the studies when their run folders are complete.

    No more are under way than there is room for in the slots, so that none is chosen before its time.
    """

    def __init__(self, studies: Studies, deadline: float | None, room: Room) -> None:
        super().__init__()
        self._studies, self._deadline, self._room = studies, deadline, room
        self._keys: dict[str, str] = {}
        self._exhausted = False

    def suggest(self, trial_id: str) -> Any:
        """The next configuration's key, FINISHED, or None while there is no room."""
        late = self._deadline is not None and time.time() > self._deadline
        if not late and len(self._keys) >= self._room.slots():
            return None
        key = None if late else self._studies.next()
        if key is None:
            self._exhausted = True
            self._room.shrink(len(self._keys))
            return Searcher.FINISHED
        self._keys[trial_id] = key
        return {"key": key}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended. What it found is read from its run folders."""
        key = self._keys.pop(trial_id)
        if not error and not (result or {}).get(HALTED):
            self._studies.tell(key)
        if self._exhausted:
            self._room.shrink(len(self._keys))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: run folders and the journal are the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: every start builds a fresh Tuner."""
