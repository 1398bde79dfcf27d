"""The training loop of one run, at three levels: run, step, micro-batch."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor

from gallop_ray.errors import Diverged
from gallop_ray.methods import Attachment, StepwiseAttachment
from gallop_ray.methods.hooks import Adapting, Regularized
from gallop_ray.methods.hybrid import HybridAttachment
from gallop_ray.methods.refresh import Refresher
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.optimizers import Decay
from gallop_ray.sparse.weights import all_ranks, collective_device, local, rank, sum_over_ranks, world_size
from gallop_ray.spec.plan import optimizer_steps
from gallop_ray.spec.training import TrainingSpec
from gallop_ray.tasks.encode import Encoded
from gallop_ray.training.batches import batches, micro_batches
from gallop_ray.training.context import Reporter, RunContext
from gallop_ray.training.engine import Engine
from gallop_ray.training.measure import Validation
from gallop_ray.training.schedules import learning_rate

_LOGGED_STEPS = 50  # a run logs about this many of its steps


@dataclass
class TrainState:
    """The progress of a run."""

    steps: int
    step: int = 0
    kept: int = 0
    """The step of the last checkpoint."""
    kept_at: float = field(default_factory=time.perf_counter)
    best_step: int | None = None
    """The step whose values a run with `keep: best` has restored."""
    loss: float = math.nan
    unlogged: list[Tensor] = field(default_factory=list)
    """Losses of the steps since the last log, as tensors: reading one earlier would make the GPU wait at every step."""
    since: float = field(default_factory=time.perf_counter)


def train(
    context: RunContext,
    attachment: Attachment,
    engine: Engine,
    refresher: Refresher | None = None,
    decay: Decay | None = None,
    begun: TrainState | None = None,
    keep: Callable[[TrainState], None] = lambda state: None,
    validation: Validation | None = None,
    until: int | None = None,
) -> TrainState:
    """Train the attachment from the start, or from `begun`; `keep` is called when a checkpoint is due.

    until: the step at which to pause, or the first one after it at which no gradients are being summed.

    Raises, on every rank, Diverged when the loss is not finite, and ValueError where a chosen matrix had no gradient in
    the first step.
    """
    training = context.training
    state = begun or TrainState(optimizer_steps(training, len(context.resident.epoch)))
    first = state.step
    engine.module.train()
    context.phases.first_forward()
    # A resumed run continues with the batches that it has not seen.
    stream = islice(batches(context.resident.epoch, training.batch_size, context.seed), state.step, state.steps)
    while not _pauses(state, until, refresher) and (batch := next(stream, None)) is not None:
        if isinstance(attachment, StepwiseAttachment):
            attachment.begin_step(state.step + 1)
        taken = _step(context, attachment, engine, batch, state, refresher, decay)
        # Once per attempt: which modules a model calls does not change with the step.
        if state.step == first and isinstance(attachment, SparseDelta | HybridAttachment):
            attachment.refuse_untrained()
        attachment.write()
        state.step += 1
        if isinstance(attachment, Adapting):
            attachment.after_step(state.step, taken, engine.state(attachment.parameters))
        if refresher is not None:
            refresher.end_step()
            refresher.refresh(state.step, state.steps, engine.state)
        due = _checkpoint_due(state, training, refresher)
        if due or state.step % max(1, state.steps // _LOGGED_STEPS) == 0 or state.step == state.steps:
            _log(state, engine, training, context.reporter)
        if validation is not None and validation.due(state.step, state.steps):
            state.since += validation.measure(state.step, state.steps, engine)
        if due:
            keep(state)
            state.kept, state.kept_at = state.step, time.perf_counter()
    _refuse_infinite(attachment)
    return state


def _pauses(state: TrainState, until: int | None, refresher: Refresher | None) -> bool:
    """Whether to pause now; a run that has reached its last step ends instead."""
    if until is None or not until <= state.step < state.steps:
        return False
    return refresher is None or not refresher.accumulating


def _checkpoint_due(state: TrainState, training: TrainingSpec, refresher: Refresher | None) -> bool:
    """Every so many steps or minutes, but not while gradients are being summed, which a checkpoint does not hold."""
    late = _late(state, training)  # first, because it is collective and what follows may return early
    if state.step >= state.steps or (refresher is not None and refresher.accumulating):
        return False
    return late or (training.checkpoint_steps is not None and state.step - state.kept >= training.checkpoint_steps)


def _late(state: TrainState, training: TrainingSpec) -> bool:
    """Whether the last checkpoint is too old, by rank 0's clock alone: the ranks must agree. Collective."""
    if training.checkpoint_minutes is None:
        return False
    mine = rank() == 0 and time.perf_counter() - state.kept_at >= 60 * training.checkpoint_minutes
    if world_size() == 1:  # nobody to agree with: the host need not wait for the GPU
        return mine
    return bool(sum_over_ranks(torch.tensor(int(mine), device=collective_device())))


def _step(
    context: RunContext,
    attachment: Attachment,
    engine: Engine,
    batch: Sequence[Encoded],
    state: TrainState,
    refresher: Refresher | None,
    decay: Decay | None,
) -> list[Tensor]:
    """One optimizer step; notes this rank's mean loss. Returns the gradients, for an attachment that adapts."""
    taken: list[Tensor] = []
    rate, losses = learning_rate(context.training, state.step, state.steps), []
    parts = list(micro_batches(batch, context.training, context.micro_steps))
    if decay is not None:
        decay.apply(engine.state, rate)
    if refresher is not None:
        refresher.listen(state.step + 1, state.steps)
    for part in parts:
        loss = _loss(context.resident.losses(engine, part), part, batch, context)
        losses.append(loss.detach())  # that of the answers, which other methods have, too
        engine.backward(loss + attachment.regularizer() if isinstance(attachment, Regularized) else loss)
        last = len(losses) == len(parts)
        if last and isinstance(attachment, Adapting) and attachment.takes_gradients(state.step + 1):
            taken = engine.gradients(attachment.parameters, context.training.clip_norm)
        stepped = engine.step(rate)
        assert stepped == (len(losses) == len(parts)), "a batch is one optimizer step, at its last micro-batch"
    state.unlogged.append(torch.stack(losses).mean())
    return taken


def _loss(losses: Tensor, part: Sequence[Encoded], batch: Sequence[Encoded], context: RunContext) -> Tensor:
    """A micro-batch's contribution to the batch's loss, from the mean answer loss of each example (examples,).

    The batch's loss is the mean of these over all micro-batches of all ranks. Each is therefore weighted by its share
    of the batch's examples, or with `loss: token` of its answer tokens, which every rank can count for itself.
    """
    micro_batches_in_all = context.micro_steps * world_size()
    if context.training.loss == "example":
        return losses.mean() * (len(part) * micro_batches_in_all / len(batch))
    tokens = torch.tensor([one.answer_tokens for one in part], dtype=losses.dtype, device=losses.device)
    return (losses * tokens).sum() * (micro_batches_in_all / sum(one.answer_tokens for one in batch))


def _refuse_infinite(attachment: Attachment) -> None:
    """Raise Diverged, on every rank, for values that the last update made NaN or inf: no loss has shown them yet."""
    if not all_ranks(all(bool(local(p).isfinite().all()) for p in attachment.parameters)):
        raise Diverged("trained values contain NaN or inf after the last step; a lower learning rate may help")


def _log(state: TrainState, engine: Engine, training: TrainingSpec, reporter: Reporter) -> None:
    loss = torch.stack(state.unlogged).mean()
    if world_size() > 1:
        dist.all_reduce(loss)
    state.loss = float(loss) / world_size()
    now = time.perf_counter()
    reporter.event(
        "step",
        step=state.step,
        steps=state.steps,
        loss=state.loss,
        learning_rate=learning_rate(training, state.step - 1, state.steps),
        grad_norm=engine.grad_norm,
        examples_per_second=len(state.unlogged) * training.batch_size / (now - state.since),
    )
    state.unlogged, state.since = [], now
    if not math.isfinite(state.loss):  # the mean over all ranks, so all of them raise
        raise Diverged(f"the training loss was {state.loss} at step {state.step}; {_advice(state.step)}")


def _advice(step: int) -> str:
    """At the first step nothing has been trained yet, so the learning rate cannot be the cause."""
    if step > 1:
        return "a lower learning rate may help"
    return "the base model gives it on this data before anything is trained: look at long texts, and at model.dtype"
