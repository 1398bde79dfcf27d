"""From training examples to a mask: scores, and the global choice."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gallop_ray.methods import MaskMethod
from gallop_ray.sparse.candidates import Candidate
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.mask import Mask, choose_within, share
from gallop_ray.sparse.scoring import score_owned
from gallop_ray.training.context import RunContext
from gallop_ray.training.scoring import Source, rank_candidates
from gallop_ray.training.warm_up import changes_of_full_training


@dataclass(frozen=True)
class Selection:
    """The mask of a run, and where a gradient method's scores came from, a `scoring.Source`."""

    mask: Mask
    scores: str | None = None


def select(context: RunContext, candidates: Sequence[Candidate], method: MaskMethod) -> Selection:
    """Choose the mask of a run. Raises ValueError, on every rank, for a density that the candidates cannot hold."""
    quotas, phases = method.quotas(candidates, context.resident.parameters), context.phases
    source: Source | None = None
    if method.needs_gradients:
        ranked = rank_candidates(context, candidates, method, quotas)
        source = ranked.source
        context.reporter.event("scores", source=source, key=ranked.key)
        with phases.phase("selecting"):
            chosen = ranked.ranking.choose(quotas)
    else:
        steps = method.full_steps
        owned = OwnedGradients(candidates) if steps is None else changes_of_full_training(context, candidates, steps)
        with phases.phase("selecting"):
            scores = score_owned(owned, method, context.seed)
            chosen = choose_within(scores, quotas, len(candidates))
    with phases.phase("selecting"):
        mask = share(candidates, {m: method.entries(units, candidates[m].shape) for m, units in chosen.items()})
    # The training that follows must not depend on whether scores had to be computed.
    torch.manual_seed(context.seed)
    return Selection(mask, source)
