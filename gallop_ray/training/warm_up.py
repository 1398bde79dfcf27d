"""Masks that are chosen after some training of something else, which is then undone: RoSA, LT-SFT."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from gallop_ray.methods import Attachment
from gallop_ray.methods.full import Full
from gallop_ray.methods.hybrid import Hybrid, inside
from gallop_ray.sparse.candidates import Candidate, gathered, refuse_unreached
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.mask import Mask, choose_within, share
from gallop_ray.sparse.optimizers import Decay
from gallop_ray.sparse.scoring import score_owned
from gallop_ray.sparse.weights import full_shape, rank
from gallop_ray.spec.other_methods import FullSpec
from gallop_ray.spec.plan import optimizer_steps
from gallop_ray.training.batches import batches
from gallop_ray.training.context import NullReporter, RunContext
from gallop_ray.training.engine import Engine
from gallop_ray.training.fisher import fisher_of_all
from gallop_ray.training.gradient_pass import accumulate
from gallop_ray.training.loop import train
from gallop_ray.training.optimizers import decay_to_now, make_optimizer, pull_to_base, without_decay


def warmed_up_mask(context: RunContext, method: Hybrid, candidates: Sequence[Candidate], total: int) -> Mask:
    """Train the tuner alone for its warm-up steps, and choose by the first batch's mean gradient there.

    The tuner is taken off again; what follows begins at the base. Collective. Raises Diverged and ValueError as
    training and selection do.
    """
    resident, phases = context.resident, context.phases
    torch.manual_seed(context.seed)
    attachment = method.tuner.attach(resident.model)
    try:
        parameters = attachment.parameters
        _train(context, attachment, method.warmup_steps, decay=decay_to_now(parameters, context.training))
        for parameter in parameters:  # or the pass below would leave gradients on them
            parameter.requires_grad_(False)
        owned = OwnedGradients(inside(attachment.module, candidates))
        first = next(batches(resident.train, context.training.batch_size, context.seed))
        usable = resident.usable(resident.model, context.training)  # with the tuner's layers inside
        with phases.phase("scoring"), owned.capture(), usable:
            accumulate(resident, first, context.training, phases, owned)
    finally:
        attachment.detach()
    had = [m in owned.sums for m in range(len(candidates))]
    refuse_unreached([c.name for c in candidates], had, "scoring")
    with phases.phase("selecting"):
        owned.candidates = list(candidates)  # where they are now
        scores = score_owned(owned, method.mask, context.seed, len(first))
        return share(candidates, choose_within(scores, method.mask.quotas(candidates, total), len(candidates)))


def changes_of_full_training(context: RunContext, candidates: Sequence[Candidate], steps: int) -> OwnedGradients:
    """Train all parameters for so many steps, 0 for as many as the run has, and undo it: trained minus base.

    From the optimizer's float32 values: many bfloat16 weights have been rounded back to where they were, and those that
    have not all moved by a few equal amounts. Collective. Raises Diverged and ValueError as training does.
    """
    owned, fisher = OwnedGradients(candidates), fisher_of_all(context)
    attachment = Full(FullSpec()).attach(context.resident.model)

    def keep_trained(engine: Engine) -> None:
        state = engine.state(attachment.parameters)
        numbers = {id(parameter): number for number, parameter in enumerate(attachment.parameters)}
        last, trained = -1, torch.empty(0)
        for m, c in enumerate(candidates):
            if (number := numbers[id(c.weight)]) != last:  # the experts of one parameter follow each other
                last, trained = number, state.master(number).view(full_shape(c.weight))
            if owned.owners[m] == rank():  # in host memory: beside the optimizer a GPU may not have room
                owned.sums[m] = c.of(trained).cpu()

    try:
        steps = steps or optimizer_steps(context.training, len(context.resident.epoch))
        decay = pull_to_base(attachment, context.training, fisher)
        _train(context, attachment, steps, keep_trained, decay)
        attachment.restore()
        for m, (_, base) in enumerate(gathered(candidates)):
            if owned.owners[m] == rank():
                owned.sums[m] = owned.sums[m].to(base.device).sub_(base.detach().float())
    finally:
        attachment.detach()
    return owned


def _train(
    context: RunContext,
    attachment: Attachment,
    steps: int,
    after: Callable[[Engine], None] | None = None,
    decay: Decay | None = None,
) -> None:
    """Train with the run's own options, schedule included, and leave the trained values in the attachment.

    after: is given the engine while it still has its optimizer.
    """
    parameters = attachment.parameters
    size = sum(full_shape(p).numel() for p in parameters)
    warm = _shortened(context.at_density(size), steps)
    config = context.resident.config(warm.training, size, warm.micro_steps)
    engine = Engine(attachment.module, config, make_optimizer(without_decay(warm.training), parameters))
    try:
        with context.phases.phase("training"):
            train(warm, attachment, engine, decay=decay)
        if after is not None:
            after(engine)
        engine.keep_whole()
    finally:
        engine.close()


def _shortened(context: RunContext, steps: int) -> RunContext:
    """The same run with so many steps, silent, and without checkpoints."""
    warm = context.trained_with(
        steps=steps, checkpoint_steps=None, checkpoint_minutes=None, validate_steps=None, keep="last"
    )
    return replace(warm, reporter=NullReporter(context.reporter.adapter))
