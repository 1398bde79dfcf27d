"""Between Tune, which executes, and the studies, which remember."""

import time
from collections.abc import Sequence
from typing import Any

from ray.tune.search import Searcher

from gallop_ray.sweep.study import Studies
from gallop_ray.tracking.records import CONFIRMATION


class Finalists(Searcher):
    """Hands Tune the configurations to run again on fresh seeds."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__()
        self._keys = list(keys)

    def suggest(self, trial_id: str) -> Any:
        """The next one, or FINISHED."""
        return {"key": self._keys.pop(0), "stage": CONFIRMATION} if self._keys else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The run folders say all."""


class StudySearcher(Searcher):
    """Hands Tune the keys of configurations to run, and tells the studies when their run folders are complete."""

    def __init__(self, studies: Studies, deadline: float | None) -> None:
        super().__init__()
        self._studies, self._deadline = studies, deadline
        self._keys: dict[str, str] = {}
        self._halted = False

    def suggest(self, trial_id: str) -> Any:
        """The next configuration's key, or FINISHED."""
        late = self._deadline is not None and time.time() > self._deadline
        key = None if late or self._halted else self._studies.next()
        if key is None:
            return Searcher.FINISHED
        self._keys[trial_id] = key
        return {"key": key}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended. What it found is read from its run folders."""
        if not error:
            self._studies.tell(self._keys[trial_id])
            # A trial that ended before its configuration was told to stop, or had no time: nor has another.
            self._halted = self._halted or not self._studies.is_over(self._keys[trial_id])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: run folders and the journal are the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: every start builds a fresh Tuner."""
