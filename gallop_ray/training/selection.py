"""From the training examples to the mask: gradients, scores, the global choice."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from gallop_ray.methods import MaskMethod
from gallop_ray.sparse.candidates import Candidate
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.mask import Mask, choose_within, share
from gallop_ray.sparse.weights import gather, rank, world_size
from gallop_ray.spec.schema import TrainingSpec
from gallop_ray.tasks.encode import Encoded
from gallop_ray.training.context import RunContext
from gallop_ray.training.loop import batches
from gallop_ray.training.phases import Phases
from gallop_ray.training.resident import Resident


def select(context: RunContext, candidates: Sequence[Candidate], method: MaskMethod) -> Mask:
    """The mask of a run. Raises ValueError, on every rank, for a density that cannot be had."""
    resident, phases = context.resident, context.phases
    quotas = method.quotas(candidates, resident.parameters)
    owned = OwnedGradients(candidates)
    if method.needs_gradients:
        with phases.phase("scoring"):
            examples = _examples(context, method.selection_ratio)
            with owned.listening(), resident.usable(resident.model, context.training):
                accumulate(resident, examples, context.training, phases)
    with phases.phase("selecting"):
        chosen = choose_within(score_owned(owned, method, context.seed), quotas, len(candidates))
        return share(candidates, {m: method.entries(units, candidates[m].shape) for m, units in chosen.items()})


def _examples(context: RunContext, ratio: float | None) -> list[Encoded]:
    train, seed = context.resident.train, context.seed
    if ratio is None:
        return next(batches(train, context.training.batch_size, seed))
    return selection_examples(train, ratio, seed)


def selection_examples(train: Sequence[Encoded], ratio: float, seed: int) -> list[Encoded]:
    """The seed's draw of ratio x N examples (at least one); a smaller ratio draws a part of a larger one's."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return [train[i] for i in order[: max(1, round(ratio * len(train)))].tolist()]


def accumulate(resident: Resident, examples: Sequence[Encoded], training: TrainingSpec, phases: Phases) -> None:
    """Run the backward passes of the mean over `examples` of each example's mean answer loss.

    Micro-batches go to the ranks in turn, examples of like length together. A rank that has run out repeats one with
    weight zero, because the gradients' way to their owners is collective.
    """
    size, world = training.micro_batch_size, world_size()
    ordered = sorted(examples, key=lambda e: len(e.input_ids))
    batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    model = resident.model
    model.eval()
    for block in model.modules():
        # Checkpointing works in training mode only; what is inside the blocks stays free of dropout.
        block.training = training.gradient_checkpointing and isinstance(block, GradientCheckpointingLayer)
    phases.first_forward()
    for turn in range(-(-len(batches) // world)):
        index = turn * world + rank()
        counted = index < len(batches)
        losses = resident.losses(model, batches[index if counted else -1])
        torch.autograd.backward(losses.sum() * (counted / len(examples)))
    model.eval()


def score_owned(owned: OwnedGradients, method: MaskMethod, seed: int) -> dict[int, Tensor]:
    """The scores of this rank's matrices, by their position in the candidates' order. Uses up the gradients."""
    scores = {}
    for i, candidate in enumerate(owned.candidates):
        weight = gather(candidate.weight)
        if owned.owners[i] == rank():
            gradient = owned.take(i) if method.needs_gradients else None
            with torch.no_grad():
                scores[i] = method.score(weight, gradient, _generator(seed, candidate))
    return scores


def _generator(seed: int, candidate: Candidate) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{candidate.name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
