"""Putting a run aside at a rung: what is measured there, and what its record needs when it continues."""

import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gallop_ray.errors import Diverged
from gallop_ray.methods import Attachment
from gallop_ray.sparse.weights import collective_device, rank, world_size
from gallop_ray.spec.rungs import rung_weights
from gallop_ray.tasks.losses import example_losses
from gallop_ray.tasks.measuring import measuring
from gallop_ray.tasks.values import numbers, packed
from gallop_ray.training.checkpoint import Checkpoint, Interim
from gallop_ray.training.context import RunContext
from gallop_ray.training.engine import Engine
from gallop_ray.training.loop import TrainState


@dataclass(frozen=True)
class Paused:
    """A run that has been measured at a rung, with its state then."""

    checkpoint: Checkpoint
    judged: "Judged"


@dataclass(frozen=True)
class Judged:
    """A paused run: its step of how many, and the losses by which it is judged there.

    losses: by task, of each validation example, in nats. loss: their mean, weighted as the objective weights the tasks.
    seconds: by phase, as in result.json, with those in which its state was written.
    """

    step: int
    steps: int
    loss: float
    losses: Mapping[str, list[float]]
    seconds: Mapping[str, float] = field(default_factory=dict)


def judge(context: RunContext, attachment: Attachment, engine: Engine, state: TrainState) -> Judged:
    """Measure the losses of validation examples. Collective, equal on every rank.

    Raises Diverged where their mean is not finite: nothing could be compared with it.
    """
    resident = context.resident
    losses: dict[str, list[float]] = {}
    weights = rung_weights(resident.sweep)
    with context.phases.phase("evaluating"), attachment.finalized():
        for name in weights:
            examples = resident.tasks[name].validation
            how = measuring(resident.sweep, name, examples)
            settings = how.settings(resident.evaluation())
            found = example_losses(engine.module, resident.tokenizer, examples, settings, how.learn)
            losses[name] = numbers(packed(found))  # of so many digits as everything else that is kept
    loss = sum(weight * fmean(losses[name]) for name, weight in weights.items())
    if not math.isfinite(loss):
        raise Diverged(f"the validation loss was {loss} at step {state.step}; a lower learning rate may help")
    return Judged(state.step, state.steps, loss, losses)


def interim(context: RunContext, state: TrainState, scores: str | None) -> Interim:
    """What a run's record needs when it continues. Collective."""
    mine = torch.stack(state.unlogged) if state.unlogged else torch.zeros(0, device=collective_device())
    everyone = [torch.empty_like(mine) for _ in range(world_size())]
    if world_size() > 1:
        dist.all_gather(everyone, mine)
    else:
        everyone = [mine]
    record: Any = context.phases.record()
    return Interim(
        id=uuid.uuid4().hex,
        unlogged=torch.stack(everyone).cpu(),
        since=time.perf_counter() - state.since,
        seconds=record["seconds"],
        peak_memory_bytes=record["peak_memory_bytes"],
        started=record["started"],
        scores=scores,
    )


def unlogged(kept: Interim) -> list[Tensor]:
    """This rank's losses since the last log; of another number of ranks the means over those."""
    own = kept.unlogged[rank()] if len(kept.unlogged) == world_size() else kept.unlogged.mean(0)
    return list(own.to(collective_device()))
