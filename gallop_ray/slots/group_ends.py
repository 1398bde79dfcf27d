"""Why a slot's worker group ended, as Ray Train's controller sees it."""

from collections.abc import Sequence
from typing import Any

from gallop_ray.compat.train import WorkerGroupCallback, causes
from gallop_ray.slots.jobs import Failure, Outcome

_MEMORY_MONITOR = ("NODE_OUT_OF_MEMORY", "running low on memory")  # how Ray's memory monitor words a kill
# Ray Train ends a group without any error when its node is about to go.
_TAKEN_AWAY = Outcome("preempted", "a node was taken away")


class WorkerFailures(WorkerGroupCallback):
    """A callback of Ray Train's controller, which alone sees why workers end."""

    def __init__(self, slot: Any) -> None:
        self._slot = slot
        self._outcome = _TAKEN_AWAY

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Called about twice a second."""
        # Remembered, because the shutdown that follows does not get the errors.
        if worker_group_status.errors:
            self._outcome = _outcome(worker_group_status.errors)

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Called before the group restarts, or the slot ends."""
        self._slot.down.remote(self._outcome)
        self._outcome = _TAKEN_AWAY


def _outcome(errors: dict[int, Exception]) -> Outcome:
    found = causes(errors)
    return Outcome(_class(found), "; ".join(dict.fromkeys(_last_line(str(cause)) for cause in found)))


def _class(causes: Sequence[Exception]) -> Failure:
    if any(getattr(cause, "preempted", False) for cause in causes):
        return "preempted"
    killed = any(words in str(cause) for cause in causes for words in _MEMORY_MONITOR)
    return "out_of_memory" if killed else "lost"


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"
