"""An estimate of a run's memory per worker from shapes alone: no weights, no data, no other worker.

Counted are tensors for as long as they are needed; not kernels' workspaces, the allocator's slack, the CUDA context,
and measuring accuracy.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gallop_ray.methods import Attachment, MaskMethod, make_method
from gallop_ray.sparse.base_state import Structure
from gallop_ray.sparse.budget import trainable_percent
from gallop_ray.sparse.candidates import Candidate, find_candidates
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.gradients import assign_owners
from gallop_ray.sparse.mask import even_mask, index_dtype
from gallop_ray.spec.mask_methods import GraspSpec
from gallop_ray.spec.method import MethodSpec
from gallop_ray.spec.schema import Configuration, Sweep
from gallop_ray.spec.training import TrainingSpec
from gallop_ray.training.activations import activations, if_known, second_derivative
from gallop_ray.training.engine import deepspeed_config

_FLOAT32 = 4
_MOMENTS = 2  # of AdamW, both float32
_LIVE_PARAMETERS = _SUB_GROUP = 10**9  # DeepSpeed's stage3_max_live_parameters and sub_group_size


@dataclass(frozen=True)
class Estimate:
    """What a run trains, and its memory in bytes on the worker that needs most.

    Bytes of an offloaded optimizer or of offloaded parameters count in `offloaded`, the host's memory, only.
    """

    parameters: int
    """N, all parameters of the base model."""
    trained: int
    """k, the parameters that the run trains."""
    weights: int
    """The base weights that the worker stores: all of them, or its shard."""
    gathered: int
    """At most how many bytes of weights ZeRO-3 has fetched from other workers."""
    scores: int
    """The float32 gradient sums or scores of the worker's own matrices."""
    values: int
    """What is trained, besides the weights: values, gradients, float32 masters, AdamW's moments; the mask; and copies
    of what the run changes, to restore it."""
    activations: int
    """What autograd saves for the backward pass of a full-length micro-batch, and what that pass allocates."""
    offloaded: int
    unknown: str = ""
    """Why the activations could not be computed, and are not counted; empty where they are."""

    @property
    def total(self) -> int:
        """The peak. Scores and values never exist at the same time."""
        return self.weights + self.gathered + self.activations + max(self.scores, self.values)

    @property
    def density(self) -> float:
        """k/N."""
        return self.trained / self.parameters

    @property
    def trainable_percent(self) -> float:
        """As results have it."""
        return trainable_percent(self.trained, self.parameters)


def estimate(model: Any, sweep: Sweep, configuration: Configuration) -> Estimate:
    """The estimate of one configuration on `model`, which is on the meta device and unchanged afterwards.

    Raises ValueError for target modules that the model does not have and for a density that they cannot hold.
    """
    training, workers = configuration.training, sweep.resources.workers_per_slot
    model.requires_grad_(False)
    base = list(model.parameters())
    total = sum(p.numel() for p in base)
    with _attached(model, configuration.method, total) as (attachment, candidates):
        trained = attachment.parameters
        k = sum(p.numel() for p in trained)
        config = deepspeed_config(sweep.deepspeed, training, model.dtype, workers, k)
        split = _Split(config["zero_optimization"], workers, model.dtype.itemsize)
        weights, (values, on_host) = split.stored(base), split.values(base, trained, bool(candidates))
        best = split.stored(trained) if training.keep == "best" else 0
        ewc, ewc_on_host = split.fisher(base, k, [c.numel for c in candidates]) if training.ewc else (0, 0)
        answer = min(sweep.evaluation.new_tokens() + 1, training.max_length - 1)
        formed = [c.weight for c in candidates] or trained
        passes = partial(activations, attachment.module, model, training, answer, formed)
        alive, unknown = if_known(passes, attachment.module)
    found = Estimate(
        parameters=total,
        trained=k,
        weights=0 if split.offload_parameters else weights,
        gathered=split.gathered(total),
        scores=_FLOAT32 * _largest_share([c.numel for c in candidates], workers),
        values=values + ewc + (0 if split.offload_parameters else best),
        activations=alive,
        unknown=unknown,
        offloaded=on_host + ewc_on_host + (weights + best) * split.offload_parameters,
    )
    if isinstance(configuration.method, GraspSpec):
        return _differentiated_twice(found, model, training, answer, candidates, whole=split.stage == 3)
    return found


def _differentiated_twice(
    found: Estimate, model: Any, training: TrainingSpec, answer: int, candidates: Sequence[Candidate], whole: bool
) -> Estimate:
    """The same for grasp, whose scoring may need more than its training; see curvature.

    whole: whether ZeRO-3 splits the weights, which that scoring makes complete.
    """
    alive, unknown = if_known(partial(second_derivative, model, training, answer, candidates), model)
    return replace(
        found,
        gathered=max(found.gathered, model.dtype.itemsize * found.parameters * whole),
        scores=found.scores + _FLOAT32 * sum(c.numel for c in candidates),  # the mean gradient, complete
        activations=max(found.activations, alive),
        unknown=found.unknown or unknown,
    )


@contextmanager
def _attached(model: nn.Module, spec: MethodSpec, total: int) -> Iterator[tuple[Attachment, list[Candidate]]]:
    """Context manager: the method's parameters on the model, and the matrices that it scores, if any."""
    method, before = make_method(spec), Structure(model)
    attachment: Attachment
    candidates: list[Candidate] = []
    try:
        if isinstance(method, MaskMethod):
            candidates = find_candidates(model, method.spec.target_modules)
            mask = even_mask(candidates, method.most_entries(candidates, total), torch.device("meta"))
            attachment = SparseDelta(model, candidates, mask)
        else:
            attachment = method.attach(model)
        yield attachment, candidates
    finally:
        before.restore()  # not detach(): a method may have been refused half-way


def _largest_share(sizes: Sequence[int], workers: int) -> int:
    load = [0] * workers
    for size, owner in zip(sizes, assign_owners(sizes, workers), strict=True):
        load[owner] += size
    return max(load)


@dataclass(frozen=True)
class _Split:
    """How DeepSpeed splits a run over the workers: its zero_optimization section, and the model's bytes per number."""

    zero: Mapping[str, Any]
    workers: int
    itemsize: int

    @property
    def stage(self) -> int:
        """The ZeRO stage that runs."""
        return int(self.zero["stage"])

    @property
    def offload_parameters(self) -> bool:
        """Whether base weights are kept in the host's memory."""
        return "offload_param" in self.zero

    def stored(self, parameters: Sequence[Tensor]) -> int:
        """Bytes of these parameters on one worker, in the model's dtype."""
        parts = self.workers if self.stage == 3 else 1
        return self.itemsize * sum(math.ceil(p.numel() / parts) for p in parameters)

    def gathered(self, total: int) -> int:
        """Complete weights that ZeRO-3 keeps until they are used again; one worker has nothing to fetch."""
        if self.stage < 3 or (self.workers == 1 and not self.offload_parameters):
            return 0
        return self.itemsize * min(total, int(self.zero.get("stage3_max_live_parameters", _LIVE_PARAMETERS)))

    def values(self, base: Sequence[Tensor], trained: Sequence[Tensor], masked: bool) -> tuple[int, int]:
        """Bytes that come with the trained parameters: on the device, and offloaded to the host.

        Trained base parameters are counted with the weights; only their copy is counted here.
        """
        of_base = {id(p) for p in base}
        changed = self.stored([p for p in trained if id(p) in of_base])
        added = self.stored([p for p in trained if id(p) not in of_base])
        k = sum(p.numel() for p in trained)
        # Every worker holds the complete mask and the base values of its entries.
        mask = k * (index_dtype(k).itemsize + self.itemsize) if masked else 0
        state, gradients = self._state(k), self._gradients(k)
        on_host = state + gradients if "offload_optimizer" in self.zero else 0
        on_host += changed + added if self.offload_parameters else 0
        return changed + added + mask + state + gradients - on_host, on_host

    def fisher(self, base: Sequence[Tensor], k: int, candidates: Sequence[int]) -> tuple[int, int]:
        """Bytes of the Fisher information for `training.ewc`, in float32: on the device, and on the host.

        A mask's is looked up in that of all candidates, which its owners keep on the host, and is whole on every worker
        before each keeps the part that it steps; full fine-tuning's is stored as the weights are.
        """
        if candidates:
            return _FLOAT32 * (k + self._own(k)), _FLOAT32 * _largest_share(candidates, self.workers)
        return _FLOAT32 * self.stored(base) // self.itemsize, 0

    def _own(self, k: int) -> int:
        """The trained parameters whose optimizer state is on one worker."""
        return math.ceil(k / self.workers) if self.stage else k

    def _state(self, k: int) -> int:
        """AdamW's moments, and from stage 1 on the float32 masters."""
        return _FLOAT32 * (_MOMENTS + (self.stage > 0)) * self._own(k)

    def _gradients(self, k: int) -> int:
        """The gradients at their largest: at the end of the backward pass, or when the step makes them float32."""
        if self.stage == 0:
            return self.itemsize * k
        own, bucket = self._own(k), int(self.zero["reduce_bucket_size"])
        if self.stage == 3:
            at_once = min(own, int(self.zero.get("sub_group_size", _SUB_GROUP)))
            return self.itemsize * (own + bucket) + _FLOAT32 * at_once
        return max(self.itemsize * (bucket + (k if self.stage == 1 else own)), (self.itemsize + _FLOAT32) * own)
