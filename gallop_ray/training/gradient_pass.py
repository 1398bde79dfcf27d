"""The gradients of training examples at the base weights, and the scores made of them."""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from gallop_ray.compat.transformers import checkpointed
from gallop_ray.methods import MaskMethod
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.weights import gather, rank, world_size
from gallop_ray.spec.schema import TrainingSpec
from gallop_ray.tasks.encode import Encoded
from gallop_ray.training.context import Phases
from gallop_ray.training.resident import Resident


def accumulate(resident: Resident, examples: Sequence[Encoded], training: TrainingSpec, phases: Phases) -> None:
    """Run the backward passes of the sum over `examples` of each example's mean answer loss, free of dropout.

    Micro-batches go to the ranks in turn, examples of like length together. A rank that has run out repeats one with
    weight zero, because the gradients' way to their owners is collective.
    """
    size, world = training.micro_batch_size, world_size()
    ordered = sorted(examples, key=lambda e: len(e.input_ids))
    batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    model = resident.model
    model.eval()
    # Scores serve runs of any seed: what a model may still draw must be the same for all of them.
    torch.manual_seed(0)
    phases.first_forward()
    with checkpointed(model) if training.gradient_checkpointing else nullcontext():
        for turn in range(-(-len(batches) // world)):
            index = turn * world + rank()
            counted = index < len(batches)
            losses = resident.losses(model, batches[index if counted else -1])
            torch.autograd.backward(losses.sum() * counted)


def score_owned(
    owned: OwnedGradients, method: MaskMethod, seed: int, examples: int = 1, keep: bool = False
) -> dict[int, Tensor]:
    """The scores of this rank's matrices, by their position in the candidates' order.

    A method that needs gradients gets the mean over `examples` of the sums, which are used up unless kept.
    """
    scores = {}
    for i, candidate in enumerate(owned.candidates):
        weight = gather(candidate.weight)
        if owned.owners[i] == rank():
            gradient = None
            if method.needs_gradients:
                gradient = (owned.copy(i) if keep else owned.take(i)).div_(examples)
            with torch.no_grad():
                scores[i] = method.score(weight, gradient, generator_of(seed, candidate.name))
    return scores


def generator_of(*parts: object) -> torch.Generator:
    """A generator that is the same wherever these parts meet: a run's seed, a matrix's name, a step."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
