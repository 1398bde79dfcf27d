"""The gradients of training examples at the base weights."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from gallop_ray.compat.transformers import checkpointed
from gallop_ray.sparse.weights import rank, world_size
from gallop_ray.spec.schema import TrainingSpec
from gallop_ray.tasks.encode import Encoded
from gallop_ray.training.context import Phases
from gallop_ray.training.resident import LoadedModel


def accumulate(resident: LoadedModel, examples: Sequence[Encoded], training: TrainingSpec, phases: Phases) -> None:
    """Run the backward passes of the sum over `examples` of each example's mean answer loss, without dropout.

    Micro-batches of examples of similar length go to the ranks in turn. A rank that has run out repeats one with weight
    zero, because reducing gradients to their owners is collective.
    """
    size, world = training.micro_batch_size, world_size()
    ordered = sorted(examples, key=lambda e: len(e.input_ids))
    batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    model = resident.model
    model.eval()
    # Scores are shared by runs of any seed: whatever a model still draws must be the same for all of them.
    torch.manual_seed(0)
    phases.first_forward()
    with checkpointed(model) if training.gradient_checkpointing else nullcontext():
        for turn in range(-(-len(batches) // world)):
            index = turn * world + rank()
            counted = index < len(batches)
            losses = resident.losses(model, batches[index if counted else -1])
            # Not engine.backward(), which needs an optimizer.
            torch.autograd.backward(losses.sum() * counted)
            phases.progress(min((turn + 1) * world * size, len(examples)), len(examples), "")
