"""A method's parameters on the base model, for the duration of a run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gallop_ray.errors import BaseChanged
from gallop_ray.methods import Attachment, MaskMethod, RefreshedMethod, TunerMethod, make_method
from gallop_ray.methods.full import FullAttachment
from gallop_ray.methods.hooks import Adapting, Keeping
from gallop_ray.methods.hybrid import Hybrid, HybridAttachment
from gallop_ray.methods.refresh import Refresher
from gallop_ray.sparse.candidates import Candidate, find_candidates, places
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.magnitudes import candidate_counts, exponent_counts, magnitude_record
from gallop_ray.sparse.optimizers import Decay, Decays
from gallop_ray.spec.method import MethodSpec
from gallop_ray.spec.plan import optimizer_steps
from gallop_ray.spec.training import TrainingSpec
from gallop_ray.training.base_guard import base_kept, check_frozen
from gallop_ray.training.checkpoint import Checkpoint
from gallop_ray.training.context import RunContext
from gallop_ray.training.fisher import fisher_of_all, fisher_of_weights, penalty_of_delta
from gallop_ray.training.optimizers import decay_to_base, decay_to_now, pull_to_base
from gallop_ray.training.resident import LoadedModel
from gallop_ray.training.selection import Selection, select
from gallop_ray.training.warm_up import warmed_up_mask


@dataclass(frozen=True)
class Attached:
    """A method's parameters on the model, with what reselects its mask and what decays it to the base."""

    attachment: Attachment
    refresher: Refresher | None = None
    decay: Decay | None = None
    candidates: Sequence[Candidate] = ()
    magnitudes: Tensor | None = None
    """Of all candidates, as exponent_counts."""
    scores: str | None = None
    """Where a gradient method's scores came from."""

    @property
    def delta(self) -> SparseDelta | None:
        """The attachment of a mask method, or a hybrid's part; None for other methods."""
        what = self.attachment.delta if isinstance(self.attachment, HybridAttachment) else self.attachment
        return what if isinstance(what, SparseDelta) else None

    @property
    def trained(self) -> list[Tensor]:
        """The tensors of model and adapter that a run may change while this is attached."""
        places = [] if self.delta is None else self.delta.places
        return [*self.attachment.parameters, *(c.weight for c in places)]

    def kept(self) -> Mapping[str, Tensor]:
        """Its state beside the parameters: a part of checkpoints. Collective."""
        keeper = self.attachment if self.refresher is None else self.refresher
        return keeper.kept() if isinstance(keeper, Keeping) else {}

    def record(self) -> dict[str, Any]:
        """The content of mask.json; empty for a method without a mask."""
        if self.delta is None or self.magnitudes is None:
            return {}
        trained = {c.name: i.numel() for c, i in zip(self.delta.places, self.delta.indices, strict=True)}
        return {
            "chosen": sum(trained.values()),
            "touched": sum(i.numel() for i in self.delta.touched),
            "matrices": {p.name: [trained.get(p.name, 0), p.numel] for p in places(self.candidates)},
            "magnitudes": magnitude_record(exponent_counts(self.delta.base()), self.magnitudes),
        }


@contextmanager
def attached(context: RunContext, checkpoint: Checkpoint | None = None) -> Iterator[Attached]:
    """Context manager: the method's parameters on the model.

    Raises BaseChanged, on every rank, where the method changes on attaching what it does not train, or leaves the base
    model changed when this closes.
    """
    spec, model = context.configuration.method, context.resident.model
    with base_kept(context.resident, spec):
        method = make_method(spec)
        if isinstance(method, MaskMethod):
            what = _masked(context, method, checkpoint)
        elif isinstance(method, Hybrid):
            what = _both(context, method, checkpoint)
        else:
            assert isinstance(method, TunerMethod)
            fisher = fisher_of_all(context)
            with context.phases.phase("attaching"):
                attachment = method.attach(model) if checkpoint is None else method.attach_again(model)
                if checkpoint is not None and isinstance(attachment, Keeping):
                    attachment.recall(checkpoint.kept)  # before the decay looks where the parameters begin
                what = Attached(attachment, decay=_decay(attachment, context.training, fisher))
        try:
            with context.phases.phase("attaching"):
                if isinstance(what.attachment, Adapting):
                    what.attachment.before_training(optimizer_steps(context.training, len(context.resident.epoch)))
                if checkpoint is None or checkpoint.interim is None:  # else it attached so before its pause
                    check_frozen(context.resident, spec, what.trained, "when it attaches")
            yield what
        finally:
            # Inside of base_kept: to restore the base is the method's own duty, which is then checked.
            what.attachment.detach()


def try_to_attach(resident: LoadedModel, spec: MethodSpec) -> None:
    """Attach a tuner and detach it again. Raises ValueError where it does not fit the model, or changes it."""
    method = make_method(spec)
    assert isinstance(method, TunerMethod)
    try:
        with base_kept(resident, spec):
            attachment = method.attach(resident.model)
            try:
                if not attachment.parameters:
                    raise ValueError("it has nothing to train; change its options, or leave it out")
                check_frozen(resident, spec, attachment.parameters, "when it attaches")
            finally:
                attachment.detach()
    except (ValueError, BaseChanged) as error:
        if isinstance(error, BaseChanged) and not error.restored:  # the workers have to load the model again
            raise
        raise ValueError(f"method {spec.name}: {error}") from error


def _masked(context: RunContext, method: MaskMethod, checkpoint: Checkpoint | None) -> Attached:
    resident = context.resident
    candidates = find_candidates(resident.model, method.spec.target_modules)
    selection = select(context, candidates, method) if checkpoint is None else _recalled(checkpoint, method)
    fisher = fisher_of_weights(context, candidates)
    with context.phases.phase("attaching"):
        magnitudes = _magnitudes(resident, candidates)
        delta = SparseDelta(resident.model, candidates, selection.mask)
        if checkpoint is not None:
            delta.recall(checkpoint.touched)
    refresher = Refresher(method, delta, context.seed) if isinstance(method, RefreshedMethod) else None
    if refresher is not None and checkpoint is not None:
        refresher.recall(checkpoint.kept)
    to_base = decay_to_base(method, delta, context.training)
    decay = Decays.of(to_base, penalty_of_delta(context, delta, fisher))
    return Attached(delta, refresher, decay, candidates, magnitudes, selection.scores)


def _both(context: RunContext, method: Hybrid, checkpoint: Checkpoint | None) -> Attached:
    """A hybrid: its mask is chosen on the bare model, or after its warm-up."""
    resident = context.resident
    candidates = method.candidates(resident.model)
    if checkpoint is not None:
        selection = _recalled(checkpoint, method.mask)
    elif method.warmup_steps:
        method.mask = method.mask_beside(resident.model, candidates, resident.parameters)
        selection = Selection(warmed_up_mask(context, method, candidates, resident.parameters), "computed")
    else:
        beside = method.mask_beside(resident.model, candidates, resident.parameters)
        selection = select(context, candidates, beside)
    torch.manual_seed(context.seed)  # the tuner must not depend on what came before
    with context.phases.phase("attaching"):
        magnitudes = _magnitudes(resident, candidates)
        attachment = method.attach_both(resident.model, candidates, selection.mask)
        of_mask = decay_to_base(method.mask, attachment.delta, context.training)
        of_tuner = decay_to_now(attachment.added, context.training)
    return Attached(attachment, None, Decays.of(of_mask, of_tuner), candidates, magnitudes)


def _recalled(checkpoint: Checkpoint, method: MaskMethod) -> Selection:
    """The mask of a checkpoint; a paused run still knows where its scores came from."""
    source = checkpoint.interim.scores if checkpoint.interim is not None else "checkpoint"
    return Selection(checkpoint.mask, source if method.needs_gradients else None)


def _decay(attachment: Attachment, training: TrainingSpec, fisher: Sequence[Tensor] | None) -> Decay | None:
    """Towards the base, before a checkpoint is read."""
    if isinstance(attachment, FullAttachment):
        return pull_to_base(attachment, training, fisher)
    return decay_to_now(attachment.parameters, training)


def _magnitudes(resident: LoadedModel, candidates: Sequence[Candidate]) -> Tensor:
    """The candidates' magnitudes, once per set of them: it gathers every weight, and the base does not change."""
    key = tuple(c.name for c in candidates)
    if key not in resident.magnitudes:
        resident.magnitudes[key] = candidate_counts(candidates)
    return resident.magnitudes[key]
