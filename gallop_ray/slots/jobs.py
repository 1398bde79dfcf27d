"""A slot's jobs and their outcomes."""

from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import RayActorError

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
