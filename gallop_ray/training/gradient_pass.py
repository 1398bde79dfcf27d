"""The passes over training examples at the base weights from which masks are chosen."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from gallop_ray.compat.transformers import checkpointed
from gallop_ray.sparse.fisher import StoredSquares
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.synaptic_flow import flow_pass, refuse_still
from gallop_ray.sparse.weights import rank, world_size
from gallop_ray.spec.method import Evidence
from gallop_ray.spec.training import TrainingSpec
from gallop_ray.tasks.encode import Encoded
from gallop_ray.training.context import Phases
from gallop_ray.training.resident import LoadedModel


def accumulate(
    resident: LoadedModel,
    examples: Sequence[Encoded],
    training: TrainingSpec,
    phases: Phases,
    evidence: OwnedGradients | StoredSquares | None = None,
) -> None:
    """Run the passes over `examples`, without dropout, that add to whatever captures them.

    Backward passes of the sum of each example's mean answer loss; for `evidence` of inputs forward passes alone, and of
    flow one pass that needs no examples.
    Micro-batches of examples of similar length go to the ranks in turn; evidence other than gradients takes one example
    at a time. A rank that has run out repeats one with weight zero, because reducing to the owners is collective.
    """
    kind = "gradients" if evidence is None else evidence.evidence
    size, world = training.micro_batch_size if kind == "gradients" else 1, world_size()
    batches, model = of_similar_length(examples, size), resident.model
    begin(resident, phases)
    if isinstance(evidence, OwnedGradients) and kind == "flow":
        flow_pass(model, resident.device, counted=rank() == 0)
        refuse_still(evidence.sums.values())
        return
    with checkpointed(model) if training.gradient_checkpointing else nullcontext(), torch.set_grad_enabled(_back(kind)):
        for turn in range(-(-len(batches) // world)):
            index = turn * world + rank()
            counted = index < len(batches)
            if evidence is not None:
                evidence.begin_pass(counted)
            losses = resident.losses(model, batches[index if counted else -1])
            if _back(kind):  # not engine.backward(), which needs an optimizer
                torch.autograd.backward(losses.sum() * counted)
            phases.progress(min((turn + 1) * world * size, len(examples)), len(examples), "")


def of_similar_length(examples: Sequence[Encoded], size: int) -> list[list[Encoded]]:
    """Micro-batches of so many examples, the last perhaps of fewer, with little padding."""
    ordered = sorted(examples, key=lambda e: len(e.input_ids))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def begin(resident: LoadedModel, phases: Phases) -> None:
    """Call before the passes: the model is in evaluation mode."""
    resident.model.eval()
    # Scores are shared by runs of any seed: whatever a model still draws must be the same for all of them.
    torch.manual_seed(0)
    phases.first_forward()


def _back(kind: Evidence) -> bool:
    return kind != "inputs"
