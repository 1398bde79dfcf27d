"""What a slot can be asked to do, and what it answers."""

from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import RayActorError

Failure = Literal["out_of_memory", "lost", "preempted", "diverged", "refused", "failed", "base_changed", "storage"]
"""`lost`, `preempted`: the worker group died and starts again, nothing is known of the run."""


@dataclass(frozen=True)
class CheckJob:
    """Check what the sweep asks of the model."""


@dataclass(frozen=True)
class BaseJob:
    """Measure the base model."""


@dataclass(frozen=True)
class RunJob:
    """Run a configuration, by its key, with one seed and micro-batches of this size."""

    configuration: str
    seed: int
    micro_batch_size: int


Job = CheckJob | BaseJob | RunJob


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: Literal["finished"] | Failure
    reason: str | None = None
    result: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Why a slot cannot serve. final: the next one, too, would come to it, and not by chance."""

    reason: str
    final: bool


def execute_in(slot: Any, job: Job) -> Outcome:
    """Run a job to its end in a leased slot, which may die of it."""
    try:
        outcome: Outcome = ray.get(slot.execute.remote(job))
    except RayActorError as error:
        outcome = Outcome("preempted" if error.preempted else "lost", f"the slot died: {error}")
    return outcome
