"""Selects a method's mask on a model, from the batches of any training loop."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gallop_ray.methods import make_method
from gallop_ray.methods.contract import MaskMethod
from gallop_ray.sparse.candidates import Candidate, find_candidates, looking, reached, refuse_unreached
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.layers import SparseLayer
from gallop_ray.sparse.mask import Mask, choose_within, share
from gallop_ray.sparse.mixtures import SparseMixture
from gallop_ray.sparse.scoring import score_owned
from gallop_ray.sparse.synaptic_flow import flow_pass, refuse_still
from gallop_ray.sparse.weights import collective_device, is_split, rank, sum_over_ranks, world_size
from gallop_ray.spec.method import MaskMethodSpec

Batch = Mapping[str, Any]
Loss = Callable[[Any, Any], Tensor]
"""Computes, from the model and one batch, the scalar loss that training would minimise."""


def model_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The scalar loss that a transformers model computes itself if the batch has `labels`.

    Raises ValueError where it returns none.
    """
    found = model(**batch)
    loss: Tensor | None = found.get("loss") if isinstance(found, Mapping) else getattr(found, "loss", None)
    if loss is None:
        raise ValueError("the model gives no loss for a batch: put `labels` into the batches, or pass loss=...")
    return loss


def select_mask(
    model: nn.Module,
    spec: MaskMethodSpec,
    batches: Iterable[Any] | None = None,
    *,
    loss: Loss = model_loss,
    seed: int = 0,
) -> Mask:
    """The entries that a method would train on `model`, which is left unchanged.

    A method that scores gradients (gallop, gem, saft, sift, snip, smt, ...) uses the mean over the batches of the
    gradient of each batch's loss, in evaluation mode, at the present weights: every batch has the same weight. Each
    batch takes one backward pass, so use batches of the size of a micro-batch, for fisher, taylor and wanda of one
    example. The choice among all matrices is exact (see gallop_ray.sparse.topk). With an initialised process group
    every rank takes part, with its own batches or all with the same; the mask is that of all batches, on every rank.

    Args:
        model: with complete weights; frozen parameters are candidates as well.
        spec: `GallopSpec(density=0.01)` and so on; its selection_ratio is for sweeps and must not be set.
        batches: mappings of tensors, or whatever `loss` takes; tensors of a mapping are moved to the model's device.
            Not needed for synflow and methods without gradients; if given, the first shows which modules the data
            reaches.
        loss: from (model, batch) to a scalar; default: `model(**batch).loss`.
        seed: of random masks (random, spiel).

    Raises:
        ValueError: for a spec without a mask, missing batches, a density that the target modules cannot hold, a matrix
            that no gradient reaches, gradients that are not finite, an adapter that is attached already, or weights
            that are split over processes.
    """
    return choose(model, method_of(spec), batches, loss, seed)[1]


def method_of(spec: MaskMethodSpec) -> MaskMethod:
    """The method of a spec. Raises ValueError for one without a mask."""
    method = make_method(spec)
    if not isinstance(method, MaskMethod):
        raise ValueError(f"{spec.type} chooses no mask: it is trained by a sweep, or by PEFT")
    if method.full_steps is not None:
        raise ValueError(f"{spec.type} trains all parameters before it chooses, which a sweep does")
    if method.spec.evidence == "products":
        raise ValueError(f"{spec.type} differentiates twice, at a temperature of its own, which a sweep does")
    return method


def choose(
    model: nn.Module, method: MaskMethod, batches: Iterable[Any] | None, loss: Loss, seed: int
) -> tuple[list[Candidate], Mask]:
    """The candidates and the mask; arguments and errors as in select_mask. Collective."""
    refuse_unfit(model)
    without_data = method.spec.evidence == "flow" or not method.needs_gradients
    if batches is None and not without_data:
        raise ValueError(f"{method.spec.type} scores gradients: give it batches to compute them on")
    if "selection_ratio" in method.spec.model_fields_set:
        raise ValueError("selection_ratio is of a sweep, which draws from its training set; give the batches to score")
    stream = iter(() if batches is None else batches)
    with _as_in_evaluation(model):
        stream = _looked(model, stream, loss)
        candidates = find_candidates(model, method.spec.target_modules)
        quotas = method.quotas(candidates, sum(p.numel() for p in model.parameters()))
        owned, count = OwnedGradients(candidates, method.spec.evidence), 1
        if method.spec.evidence == "flow":
            _add_flow(owned, model)
        elif method.needs_gradients:
            count = _add_gradients(owned, model, stream, loss)
    chosen = choose_within(score_owned(owned, method, seed, count), quotas, len(candidates))
    entries = {m: method.entries(units, candidates[m].shape) for m, units in chosen.items()}
    return candidates, share(candidates, entries)


def refuse_unfit(model: nn.Module) -> None:
    """Raise ValueError for a model with an adapter attached, or with incomplete weights."""
    if any(isinstance(module, SparseLayer | SparseMixture) for module in model.modules()):
        raise ValueError("the model has an adapter attached already; detach() or merge() it first")
    if any(is_split(p) or p.is_meta or hasattr(p, "to_local") for p in model.parameters()):
        raise ValueError(
            "the model's weights are split over processes (ZeRO-3 or FSDP) or not loaded; load it whole, or train by a "
            "sweep, which knows ZeRO-3"
        )


def _looked(model: nn.Module, stream: Iterator[Any], loss: Loss) -> Iterator[Any]:
    """The same batches; if the model has not been traced yet, the first is used to find which modules are called."""
    first = next(stream, None)
    if first is None:
        return stream
    if reached(model) is None:
        with looking(model), torch.no_grad():
            loss(model, _on_device(first, model))
    return _with_first(first, stream)


def _with_first(first: Any, stream: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from stream


def _add_gradients(owned: OwnedGradients, model: nn.Module, stream: Iterator[Any], loss: Loss) -> int:
    """Sum the gradients of all ranks' batches. Returns the number of batches.

    A rank that has run out repeats its last batch with weight zero, because reducing gradients to their owners is
    collective.
    """
    total, last = 0, None
    with owned.capture(), torch.enable_grad():
        while True:
            batch = next(stream, None)
            counted = _sum(int(batch is not None))
            if not counted:
                break
            if not total and counted < world_size():
                raise ValueError("a rank has no batch at all; give each of them one")
            total, last = total + counted, last if batch is None else batch
            owned.begin_pass(batch is not None)
            found = loss(model, _on_device(last, model))
            if owned.evidence != "inputs":  # which need no backward pass
                torch.autograd.backward(found * float(batch is not None))
    if not total:
        raise ValueError("there is no batch to compute gradients on")
    _refuse_unreached(owned)
    return total


def _add_flow(owned: OwnedGradients, model: nn.Module) -> None:
    """SynFlow's pass, on every rank; one of them counts."""
    with owned.capture(), torch.enable_grad():
        flow_pass(model, next(model.parameters()).device, counted=rank() == 0)
    _refuse_unreached(owned)
    refuse_still(owned.sums.values())


def _refuse_unreached(owned: OwnedGradients) -> None:
    names = [c.name for c in owned.candidates]
    refuse_unreached(names, [m in owned.sums for m in range(len(names))], "scoring")


def _sum(count: int) -> int:
    return int(sum_over_ranks(torch.tensor(count, device=collective_device())))


def _on_device(batch: Any, model: nn.Module) -> Any:
    if not isinstance(batch, Mapping):
        return batch
    device = next(model.parameters()).device
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


@contextmanager
def _as_in_evaluation(model: nn.Module) -> Iterator[None]:
    """Context manager: no dropout, no gradients of the parameters themselves; restores the random state on exit."""
    training = [(module, module.training) for module in model.modules()]
    asking = [(p, p.requires_grad) for p in model.parameters()]
    device = next(model.parameters()).device
    model.eval().requires_grad_(False)
    try:
        # The devices are named because fork_rng would otherwise save the state of every GPU.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)  # whatever a model still draws must not influence the mask
            yield
    finally:
        for module, was in training:
            module.training = was
        for parameter, asked in asking:
            parameter.requires_grad_(asked)
