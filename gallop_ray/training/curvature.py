"""GraSP's passes: the Hessian of the mean loss times its own gradient, H g, over the selection examples.

g first, in one round of passes; in the second, the gradient of <g, gradient>, by differentiating twice. For that the
weights have to stay where they are between the two, and so are complete on every rank, whatever the ZeRO stage.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gallop_ray.compat.transformers import attention_of
from gallop_ray.sparse.candidates import Candidate, places, refuse_unreached
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.weights import rank, sum_over_ranks, world_size
from gallop_ray.spec.training import TrainingSpec
from gallop_ray.tasks.encode import IGNORED, Encoded, answer_positions, collate, on_device
from gallop_ray.training.context import Phases
from gallop_ray.training.engine import complete
from gallop_ray.training.gradient_pass import begin, of_similar_length
from gallop_ray.training.resident import LoadedModel

_ATTENTIONS = ("eager", "sdpa")


def accumulate_products(
    resident: LoadedModel,
    examples: Sequence[Encoded],
    training: TrainingSpec,
    phases: Phases,
    owned: OwnedGradients,
    temperature: float,
) -> None:
    """Add to `owned` the sum over the examples of H_i g, g their mean gradient, at this temperature of the logits.

    Like accumulate, of the same losses. Collective. Raises ValueError, on every rank, for attention by a kernel without
    a second derivative, and naming candidates without a gradient.
    """
    _refuse_attention(resident.model)
    size, world = training.micro_batch_size, world_size()
    batches = of_similar_length(examples, size)
    turns = -(-len(batches) // world)

    def of_turn(turn: int, done: int) -> Tensor:
        """The sum of this rank's losses; a rank that has run out repeats one with weight zero: adding is collective."""
        index = turn * world + rank()
        counted = index < len(batches)
        phases.progress(done + min(turn * world * size, len(examples)), 2 * len(examples), "")
        return answer_losses(resident, batches[index if counted else -1], temperature).sum() * counted

    begin(resident, phases)
    weights = [p.weight for p in places(owned.candidates)]
    # Fused attention has no second derivative.
    with complete(resident.model), asking(weights), sdpa_kernel(SDPBackend.MATH):
        g = _sum_gradients(owned.candidates, weights, [partial(of_turn, t, 0) for t in range(turns)])
        for each in g:
            each.div_(len(examples))
        for turn in range(turns):
            _add(owned, _products(of_turn(turn, len(examples)), weights, g), weights)


def answer_losses(resident: LoadedModel, examples: Sequence[Encoded], temperature: float) -> Tensor:
    """As LoadedModel.losses, of logits divided by the temperature, and differentiable more than once."""
    batch = collate(examples, resident.tokenizer.pad_token_id)
    labels = batch.pop("labels")
    positions = answer_positions(labels)
    inputs = {name: on_device(tensor, resident.device) for name, tensor in batch.items()}
    forward: Any = resident.model
    logits = forward(**inputs, use_cache=False, logits_to_keep=on_device(positions, resident.device)).logits
    targets = on_device(labels[:, positions + 1], resident.device)
    flat = (logits.float() / temperature).flatten(0, 1)
    losses = F.cross_entropy(flat, targets.view(-1), ignore_index=IGNORED, reduction="none").view(targets.shape)
    return losses.sum(1) / (targets != IGNORED).sum(1).clamp(min=1)


def _refuse_attention(model: nn.Module) -> None:
    if (attention := attention_of(model.config)) not in _ATTENTIONS:
        raise ValueError(
            f"grasp needs attention by {' or '.join(_ATTENTIONS)}, not {attention}, which has no second derivative"
        )


def _sum_gradients(
    candidates: Sequence[Candidate], weights: Sequence[Tensor], passes: Sequence[Callable[[], Tensor]]
) -> list[Tensor]:
    """The sum of the gradients by each weight, over all passes and ranks: float32, complete, on every rank."""
    summed, had = [torch.zeros(w.shape, device=w.device) for w in weights], [False] * len(weights)
    for loss in passes:
        for m, gradient in enumerate(torch.autograd.grad(loss(), list(weights), allow_unused=True)):
            if gradient is not None:
                had[m] = True
                summed[m] += gradient
    refuse_unreached([p.name for p in places(candidates)], had, "scoring")
    return [sum_over_ranks(each) for each in summed]


def _products(loss: Tensor, weights: Sequence[Tensor], g: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The Hessian of the loss times g."""
    first = torch.autograd.grad(loss, list(weights), create_graph=True, allow_unused=True)
    terms = [(own.float() * v).sum() for own, v in zip(first, g, strict=True) if own is not None]
    return torch.autograd.grad(torch.stack(terms).sum(), list(weights), allow_unused=True)


def _add(owned: OwnedGradients, products: Sequence[Tensor | None], weights: Sequence[Tensor]) -> None:
    of = {id(w): product for w, product in zip(weights, products, strict=True)}
    for m, c in enumerate(owned.candidates):
        product = of[id(c.weight)]
        # Zeros, too: reducing to the owners is collective, and of contiguous tensors.
        mine = torch.zeros(c.shape, device=c.weight.device) if product is None else c.of(product).contiguous()
        owned.add(m, mine)


@contextmanager
def asking(weights: Sequence[Tensor]) -> Iterator[None]:
    """Context manager: autograd differentiates by these weights."""
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)
