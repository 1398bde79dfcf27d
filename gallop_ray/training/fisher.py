"""The Fisher information at the base weights that `training.ewc` holds weights by, of the examples of `data.fisher`."""

import torch

from gallop_ray.sparse.candidates import Candidate, places
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.elastic import ElasticDelta, ElasticPenalty
from gallop_ray.sparse.fisher import OwnedFisher, StoredSquares
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.training.context import RunContext
from gallop_ray.training.gradient_pass import accumulate


def fisher_of_weights(context: RunContext, candidates: list[Candidate]) -> OwnedFisher | None:
    """That of the weights in which a mask is chosen, while they are the base's; None without `training.ewc`.

    It depends on no configuration and no seed, so that a worker computes it once. Collective. Raises ValueError for a
    weight that the model uses twice in a pass.
    """
    if not context.training.ewc:
        return None
    kept, weights = context.resident.fisher, places(candidates)
    key = tuple(each.name for each in weights)
    if key not in kept:
        kept.clear()  # 4 bytes an entry: one set of candidates at a time
        squares = OwnedGradients(weights, "squares")
        _run(context, squares)
        kept[key] = OwnedFisher(squares, len(context.resident.fisher_examples))
    return kept[key]


def penalty_of_delta(context: RunContext, delta: SparseDelta, fisher: OwnedFisher | None) -> ElasticPenalty | None:
    """The penalty of a mask's entries; None where there is no `fisher`."""
    return None if fisher is None else ElasticDelta(delta, fisher, context.training.ewc)


def fisher_of_all(context: RunContext) -> list[torch.Tensor] | None:
    """That of every parameter of the bare base model, as this rank stores it; None without `training.ewc`. Collective.

    Each run computes it: it is as large as the model, in float32.
    """
    if not context.training.ewc:
        return None
    squares = StoredSquares(list(context.resident.model.parameters()))
    _run(context, squares)
    return squares.fisher(len(context.resident.fisher_examples))


def _run(context: RunContext, squares: OwnedGradients | StoredSquares) -> None:
    """Pass the examples one by one, without a trace in the random state of the training."""
    resident, training = context.resident, context.training
    device = resident.device
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        context.phases.phase("scoring"),
        squares.capture(),
        resident.usable(resident.model, training),
    ):
        accumulate(resident, resident.fisher_examples, training, context.phases, squares)
