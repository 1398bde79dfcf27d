"""A method's parameters on the base model, for the length of a run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gallop_ray.methods import METHODS, Attachment, MaskMethod, RefreshedMethod, TunerMethod
from gallop_ray.sparse.candidates import Candidate, find_candidates
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.magnitudes import candidate_counts, exponent_counts, magnitude_record
from gallop_ray.training.checkpoint import Checkpoint
from gallop_ray.training.context import RunContext
from gallop_ray.training.decay import DecayToBase, decay_to_base
from gallop_ray.training.refresh import Refresher
from gallop_ray.training.selection import Selection, select


@dataclass(frozen=True)
class Attached:
    """A method's parameters on the model, what keeps its mask fresh, and what pulls it to the base."""

    attachment: Attachment
    refresher: Refresher | None = None
    decay: DecayToBase | None = None
    candidates: Sequence[Candidate] = ()
    magnitudes: Tensor | None = None
    """Of all candidates, as exponent_counts."""
    scores: str | None = None
    """Where a gradient method's scores came from."""

    @property
    def delta(self) -> SparseDelta | None:
        """The attachment of a mask method."""
        return self.attachment if isinstance(self.attachment, SparseDelta) else None

    def record(self) -> dict[str, Any]:
        """What mask.json says; empty for a method without a mask."""
        if self.delta is None or self.magnitudes is None:
            return {}
        trained = {c.name: i.numel() for c, i in zip(self.delta.places, self.delta.indices, strict=True)}
        return {
            "chosen": sum(trained.values()),
            "touched": sum(i.numel() for i in self.delta.touched),
            "matrices": {c.name: [trained.get(c.name, 0), c.numel] for c in self.candidates},
            "magnitudes": magnitude_record(exponent_counts(self.delta.base()), self.magnitudes),
        }


@contextmanager
def attached(context: RunContext, checkpoint: Checkpoint | None = None) -> Iterator[Attached]:
    """The method's parameters on the model while this is open."""
    spec, model = context.configuration.method, context.resident.model
    method = METHODS[spec.type](spec)
    what = _masked(context, method, checkpoint) if isinstance(method, MaskMethod) else None
    if what is None:
        assert isinstance(method, TunerMethod)
        with context.phases.phase("attaching"):
            what = Attached(method.attach(model))
    try:
        yield what
    finally:
        what.attachment.detach()


def _masked(context: RunContext, method: MaskMethod, checkpoint: Checkpoint | None) -> Attached:
    resident = context.resident
    candidates = find_candidates(resident.model, method.spec.target_modules)
    if checkpoint is None:
        selection = select(context, candidates, method)
    else:
        selection = Selection(checkpoint.mask, "checkpoint" if method.needs_gradients else None)
    with context.phases.phase("attaching"):
        key = tuple(c.name for c in candidates)
        if key not in resident.magnitudes:
            resident.magnitudes[key] = candidate_counts(candidates)
        delta = SparseDelta(resident.model, candidates, selection.mask)
        if checkpoint is not None:
            delta.recall(checkpoint.touched)
    refresher = Refresher(method, delta, context.seed) if isinstance(method, RefreshedMethod) else None
    decay = decay_to_base(method, delta, context.training)
    return Attached(delta, refresher, decay, candidates, resident.magnitudes[key], selection.scores)
