"""What a slot can be asked to do, and what it answers."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class BaseJob:
    """Check what the sweep asks of the model, and measure the base model."""


@dataclass(frozen=True)
class RunJob:
    """Run a configuration, by its key, with one seed."""

    configuration: str
    seed: int


Job = BaseJob | RunJob


@dataclass(frozen=True)
class Outcome:
    """How a job ended. `lost`: the worker group died and starts again, nothing is known of the run."""

    status: Literal["finished", "failed", "diverged", "refused", "lost"]
    reason: str | None = None
    result: dict[str, Any] = field(default_factory=dict)
