"""The link between Tune, which executes, and the studies, which remember."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from gallop_ray.slots.pool import Room
from gallop_ray.sweep.stop import HALTED

_DEATHS = 3  # of trials of one configuration, after which it is left for the next start of the sweep


class SlotSearcher(Searcher):
    """Hands Tune the keys of configurations to run.

    No more are active than there are slots: one chosen earlier would be chosen with fewer results known.

    Args:
        stage: of the runs, SEARCH or CONFIRMATION.
        take: returns the next key; None when there is no other.
        over: called when a configuration's trial has ended; returns whether the configuration is over, too.
        deadline: after which nothing starts, in seconds since 1970.
        spare: slots that are needed afterwards.
        rung: how far a trial takes a configuration, as the arguments of a Rung; None for to its end.
        more: whether there may be another key although there is none now, once what is active has ended.

    A configuration whose trial died is handed out again, a few times.
    """

    def __init__(
        self,
        stage: str,
        take: Callable[[], str | None],
        over: Callable[[str], bool],
        room: Room,
        deadline: float | None = None,
        spare: int = 0,
        rung: Callable[[str], tuple[int, float | None] | None] = lambda key: None,
        more: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._stage, self._take, self._over = stage, take, over
        self._room, self._deadline, self._spare = room, deadline, spare
        self._rung, self._more = rung, more
        self._keys: dict[str, str] = {}
        self._again: list[str] = []
        self._deaths: Counter[str] = Counter()
        self._stopped = self._taken = False
        """Whether nothing more may start; whether everything has been taken."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles it for a restore that never happens, and the studies hold a database's password."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The next configuration's key, FINISHED, or None while no slot is free."""
        if self._deadline is not None and time.time() > self._deadline:
            self._stopped = True
        if self._stopped:
            self._shrink()
            return Searcher.FINISHED
        if len(self._keys) >= self._room.slots():
            return None
        key = self._next()
        if key is None:
            if self._taken:  # else what is active may make others continue, on all slots
                self._shrink()
            return None if self._keys else Searcher.FINISHED  # an active one may die and be handed out again
        self._keys[trial_id] = key
        rung = self._rung(key)
        return {"key": key, "stage": self._stage, **({} if rung is None else {"rung": rung})}

    def _next(self) -> str | None:
        if self._again:
            return self._again.pop(0)
        key = None if self._taken else self._take()
        self._taken = key is None and not (self._more() and self._keys)
        return key

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended. What it found is read from its run folders."""
        key = self._keys.pop(trial_id)
        if error:
            self._deaths[key] += 1
            self._again += [key] * (self._deaths[key] < _DEATHS)
        elif not (result or {}).get(HALTED):
            # The trial stopped early (stop requested or deadline reached): do not start others.
            self._stopped = not self._over(key) or self._stopped
        if self._stopped or self._taken:
            self._shrink()

    def _shrink(self) -> None:
        self._room.shrink(max(len(self._keys) + len(self._again), self._spare))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: run folders and the journal are the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: every start builds a new Tuner."""
