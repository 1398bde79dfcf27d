"""A slot's jobs and their outcomes, and what Ray Train's controller reports to it about worker failures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import RayActorError

from gallop_ray.compat.train import WorkerGroupCallback, ask_for_no_nodes, causes
from gallop_ray.spec.rungs import Rung

Failure = Literal["out_of_memory", "lost", "preempted", "diverged", "refused", "failed", "base_changed", "storage"]
"""`lost`, `preempted`: the worker group died and restarts; nothing is known about the run."""


@dataclass(frozen=True)
class CheckJob:
    """Check the sweep against the model."""


@dataclass(frozen=True)
class BaseJob:
    """Measure the base model."""


@dataclass(frozen=True)
class RunJob:
    """Run a configuration, by its key, with one seed and micro-batches of this size; with a rung, up to that."""

    configuration: str
    seed: int
    micro_batch_size: int
    rung: Rung | None = None


Job = CheckJob | BaseJob | RunJob


@dataclass(frozen=True)
class Outcome:
    """How a job ended. `paused`: the run was put aside at its rung, which the result tells."""

    status: Literal["finished", "paused"] | Failure
    reason: str | None = None
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether something went wrong."""
        return self.status not in ("finished", "paused")


@dataclass(frozen=True)
class Refusal:
    """Why a slot cannot serve. final: any other slot would fail in the same way."""

    reason: str
    final: bool


def execute_in(slot: Any, job: Job) -> Outcome:
    """Run a job to its end in a leased slot. Never raises for the slot's death, which is an outcome."""
    try:
        outcome: Outcome = ray.get(slot.execute.remote(job))
    except RayActorError as error:
        outcome = Outcome("preempted" if error.preempted else "lost", f"the slot died: {error}")
    return outcome


_MEMORY_MONITOR = ("NODE_OUT_OF_MEMORY", "running low on memory")  # how Ray's memory monitor words a kill
# Ray Train ends a group without any error when its node is about to go.
_TAKEN_AWAY = Outcome("preempted", "a node was taken away")


class WorkerFailures(WorkerGroupCallback):
    """A callback in the process of Ray Train's controller, which alone sees why workers end."""

    def __init__(self, slot: Any) -> None:
        self._slot = slot
        self._outcome = _TAKEN_AWAY

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Come into the controller's process, before it begins."""
        self.__dict__.update(state)
        ask_for_no_nodes()

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
