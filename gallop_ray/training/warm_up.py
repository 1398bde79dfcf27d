"""Masks that are chosen after some training of something else, which is then undone (RoSA)."""

from collections.abc import Sequence
from dataclasses import replace

from gallop_ray.methods.hybrid import Hybrid, inside
from gallop_ray.sparse.candidates import Candidate, refuse_unreached
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.mask import Mask, choose_within, share
from gallop_ray.sparse.scoring import score_owned
from gallop_ray.sparse.weights import full_shape
from gallop_ray.training.batches import batches
from gallop_ray.training.context import NullReporter, RunContext
from gallop_ray.training.engine import Engine
from gallop_ray.training.gradient_pass import accumulate
from gallop_ray.training.loop import train
from gallop_ray.training.optimizers import make_optimizer


def warmed_up_mask(context: RunContext, method: Hybrid, candidates: Sequence[Candidate], total: int) -> Mask:
    """Train the tuner alone for its warm-up steps, and choose by the first batch's mean gradient there.

    The tuner is taken off again; what follows begins at the base. Collective. Raises Diverged and ValueError as
    training and selection do.
    """
    resident, phases = context.resident, context.phases
    warm = _shortened(context, method.warmup_steps)
    attachment = method.tuner.attach(resident.model)
    try:
        parameters = attachment.parameters
        config = resident.config(warm.training, sum(full_shape(p).numel() for p in parameters), warm.micro_steps)
        engine = Engine(attachment.module, config, make_optimizer(warm.training, parameters))
        try:
            with phases.phase("training"):
                train(warm, attachment, engine)
            engine.keep_whole()
        finally:
            engine.close()
        for parameter in parameters:  # or the pass below would leave gradients on them
            parameter.requires_grad_(False)
        owned = OwnedGradients(inside(attachment.module, candidates))
        first = next(batches(resident.train, context.training.batch_size, context.seed))
        usable = resident.usable(attachment.module, context.training)
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


def _shortened(context: RunContext, steps: int) -> RunContext:
    """The same run with so many steps, silent, and without checkpoints."""
    only = {
        "steps": steps,
        "checkpoint_steps": None,
        "checkpoint_minutes": None,
        "validate_steps": None,
        "keep": "last",
    }
    training = context.training.model_copy(update=only)
    configuration = context.configuration.model_copy(update={"training": training})
    return replace(context, configuration=configuration, reporter=NullReporter(context.reporter.adapter))
