"""The memory that a run needs on a worker, worked out from shapes alone: no weights, no data, no other worker.

What is counted is what stays while it is needed. Not counted: what a kernel needs for itself, the allocator's slack,
the CUDA context, and measuring accuracy.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.modeling_layers import GradientCheckpointingLayer

from gallop_ray.compat.torch import GROUPED_PRODUCTS, flash_attention_on_cpu, storage_key
from gallop_ray.methods import Attachment, MaskMethod, make_method
from gallop_ray.sparse.base_state import Structure
from gallop_ray.sparse.candidates import Candidate, find_candidates
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.gradients import assign_owners
from gallop_ray.sparse.mask import Mask, index_dtype
from gallop_ray.spec.methods import MethodSpec
from gallop_ray.spec.schema import Configuration, Sweep, TrainingSpec
from gallop_ray.training.engine import deepspeed_config
from gallop_ray.training.model_checks import first_line
from gallop_ray.training.run import checkpointing

_FLOAT32 = 4
_MOMENTS = 2  # of AdamW, both float32
_LIVE_PARAMETERS = _SUB_GROUP = 10**9  # DeepSpeed's stage3_max_live_parameters and sub_group_size


@dataclass(frozen=True)
class Estimate:
    """What a run trains, and its memory on the worker that needs most, in bytes.

    Where optimizer or parameters are offloaded, their bytes are in `offloaded`, the host's memory, and nowhere else.
    """

    parameters: int
    """N, all parameters of the base model."""
    trained: int
    """k, the parameters that the run trains."""
    weights: int
    """The base weights that the worker stores: all, or its shard."""
    gathered: int
    """Weights that ZeRO-3 has fetched from other workers, at most."""
    scores: int
    """The float32 scores (of gallop, at first the gradient sums) of the worker's own matrices."""
    values: int
    """What is trained, beside the weights: values, gradients, float32 masters, AdamW's moments; and the mask, and the
    copies of what the run changes, to come back to."""
    activations: int
    """What autograd saves for the backward pass of a micro-batch of full length, and what it then passes on."""
    offloaded: int
    unknown: str = ""
    """Why the activations could not be worked out, and are not counted; empty where they are."""

    @property
    def total(self) -> int:
        """The peak. The scores are gone when the values come."""
        return self.weights + self.gathered + self.activations + max(self.scores, self.values)

    @property
    def density(self) -> float:
        """k/N."""
        return self.trained / self.parameters

    @property
    def trainable_percent(self) -> float:
        """100 k/(N+k), as PEFT prints it for parameters that are added."""
        return 100 * self.trained / (self.parameters + self.trained)


def estimate(model: Any, sweep: Sweep, configuration: Configuration) -> Estimate:
    """The estimate of one configuration on `model`, a model on the meta device, which is unchanged afterwards.

    Raises ValueError for target modules that the model lacks and for a density that they cannot hold.
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
        answer = min(sweep.evaluation.new_tokens() + 1, training.max_length - 1)
        formed = [c.weight for c in candidates] or trained
        activations, unknown = _activations_if_known(attachment.module, model, training, answer, formed)
    return Estimate(
        parameters=total,
        trained=k,
        weights=0 if split.offload_parameters else weights,
        gathered=split.gathered(total),
        scores=_FLOAT32 * _largest_share([c.numel for c in candidates], workers),
        values=values + (0 if split.offload_parameters else best),
        activations=activations,
        unknown=unknown,
        offloaded=on_host + (weights + best) * split.offload_parameters,
    )


@contextmanager
def _attached(model: nn.Module, spec: MethodSpec, total: int) -> Iterator[tuple[Attachment, list[Candidate]]]:
    """The method's parameters on the model while this is open, and the matrices that it scores, if it does."""
    method, before = make_method(spec), Structure(model)
    attachment: Attachment
    candidates: list[Candidate] = []
    try:
        if isinstance(method, MaskMethod):
            candidates = find_candidates(model, method.spec.target_modules)
            units = sum(quota.k for quota in method.quotas(candidates, total))
            mask = _even_mask(candidates, min(units * method.entries_per_unit, sum(c.numel for c in candidates)))
            attachment = SparseDelta(model, candidates, mask)
        else:
            attachment = method.attach(model)
        yield attachment, candidates
    finally:
        before.restore()  # what was refused half-way, too


def _even_mask(candidates: Sequence[Candidate], k: int) -> Mask:
    """k entries, every matrix with its share: which entries a mask holds makes no difference to its size."""
    dtype = index_dtype(max(c.numel for c in candidates))
    available, before, indices = sum(c.numel for c in candidates), 0, {}
    for c in candidates:
        count = k * (before + c.numel) // available - k * before // available
        before += c.numel
        if count:
            indices[c.name] = torch.empty(count, dtype=dtype, device="meta")
    return Mask(indices)


def _largest_share(sizes: Sequence[int], workers: int) -> int:
    load = [0] * workers
    for size, owner in zip(sizes, assign_owners(sizes, workers), strict=True):
        load[owner] += size
    return max(load)


@dataclass(frozen=True)
class _Split:
    """How DeepSpeed splits a run over the workers: its zero_optimization section, and bytes a number of the model."""

    zero: Mapping[str, Any]
    workers: int
    itemsize: int

    @property
    def stage(self) -> int:
        return int(self.zero["stage"])

    @property
    def offload_parameters(self) -> bool:
        return "offload_param" in self.zero

    def stored(self, parameters: Sequence[Tensor]) -> int:
        """Bytes of these parameters on one worker, in the model's dtype."""
        parts = self.workers if self.stage == 3 else 1
        return self.itemsize * sum(math.ceil(p.numel() / parts) for p in parameters)

    def gathered(self, total: int) -> int:
        """Whole weights that ZeRO-3 holds on to until they are used again; one worker has nothing to fetch."""
        if self.stage < 3 or (self.workers == 1 and not self.offload_parameters):
            return 0
        return self.itemsize * min(total, int(self.zero.get("stage3_max_live_parameters", _LIVE_PARAMETERS)))

    def values(self, base: Sequence[Tensor], trained: Sequence[Tensor], masked: bool) -> tuple[int, int]:
        """Bytes of all that comes with the trained parameters, on the device and on the host instead.

        Base parameters among them are stored with the weights; their copy is counted here.
        """
        of_base = {id(p) for p in base}
        changed = self.stored([p for p in trained if id(p) in of_base])
        added = self.stored([p for p in trained if id(p) not in of_base])
        k = sum(p.numel() for p in trained)
        # Each worker knows the whole mask, and what was where it is.
        mask = k * (index_dtype(k).itemsize + self.itemsize) if masked else 0
        state, gradients = self._state(k), self._gradients(k)
        on_host = state + gradients if "offload_optimizer" in self.zero else 0
        on_host += changed + added if self.offload_parameters else 0
        return changed + added + mask + state + gradients - on_host, on_host

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


def _activations_if_known(
    module: nn.Module, model: Any, training: TrainingSpec, answer: int, formed: Sequence[Tensor]
) -> tuple[int, str]:
    """The bytes of `_activations` and nothing, or 0 and why they cannot be worked out.

    A forward pass on the meta device needs more of a model's code than a real one: it is tried with a whole
    mask, as of a batch with padding, then without any. An estimate decides nothing, so what fails is said.
    """
    errors: list[Exception] = []
    for whole_mask in (True, False):
        try:
            return _activations(module, model, training, answer, formed, whole_mask), ""
        except Exception as failure:  # of whatever class the model's own code raises
            errors.append(failure)
        finally:
            module.eval()
    return 0, first_line(errors[0])


def _activations(
    module: nn.Module, model: Any, training: TrainingSpec, answer: int, formed: Sequence[Tensor], whole_mask: bool
) -> int:
    """Bytes alive when the backward pass is at its largest, beside weights and what it leaves behind.

    answer: tokens of an answer. formed: the matrices whose whole gradient is formed, one at a time.
    """
    inputs = _batch(training.micro_batch_size, training.max_length, whole_mask)
    # Logits are computed where some example of the batch has an answer, at most.
    kept = torch.empty(min(training.micro_batch_size * answer, training.max_length), dtype=torch.long, device="meta")
    blocks = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
    module.train()
    with _MetaKernels(), checkpointing(model, training), _calls(blocks[-1:]) as calls:
        saved, output = saved_for_backward(module, lambda: module(**inputs, use_cache=False, logits_to_keep=kept))
    again: int = 0
    if training.gradient_checkpointing:
        block, args, kwargs = calls[0]
        with _MetaKernels():
            again, _ = saved_for_backward(block, lambda: block.forward(*args, **kwargs))
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    itemsize: int = model.dtype.itemsize
    of_head: int = itemsize * sum(p.numel() for p in formed if p is head)
    of_block: int = itemsize * max((p.numel() for p in formed if p is not head and p is not embedding), default=0)
    logits: int = itemsize * output.logits.numel()
    answers: int = _FLOAT32 * training.micro_batch_size * answer * output.logits.shape[-1]
    # In turn: from the answers' logits to those computed, in two steps; the head; the last block, maybe recomputed.
    return saved + max(answers + 2 * logits, logits + of_head, again + of_block)


def _batch(examples: int, tokens: int, whole_mask: bool) -> dict[str, Tensor]:
    """A batch as the model sees it, with padding if it takes a whole mask."""
    ids = torch.empty(examples, tokens, dtype=torch.long, device="meta")
    # The model would make this of the usual mask of two dimensions, but look into that one first.
    mask = torch.empty(examples, 1, tokens, tokens, dtype=torch.bool, device="meta") if whole_mask else None
    return {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask}


@contextmanager
def _calls(modules: Sequence[nn.Module]) -> Iterator[list[tuple[nn.Module, Any, Any]]]:
    """The calls of these modules while this is open: module, arguments, keyword arguments."""
    calls: list[tuple[nn.Module, Any, Any]] = []

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.append((module, args, kwargs))

    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def saved_for_backward(module: nn.Module, forward: Callable[[], Any]) -> tuple[int, Any]:
    """Bytes of what autograd saves in `forward()`, beside the module's own parameters and buffers; and its result."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage_key(storage)] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    for tensor in (*module.parameters(), *module.buffers()):
        kept.pop(storage_key(tensor.untyped_storage()), None)
    return sum(storage.nbytes() for storage in kept.values()), result


class _MetaKernels(TorchFunctionMode):
    """While this is open operations on the meta device save what the kernels of CPU and GPU save.

    By itself it would take the plain formula of attention, which saves every attention weight, and the grouped
    products of experts in bfloat16 only.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            func = _fused
        elif func in GROUPED_PRODUCTS:
            func = _grouped
        return func(*args, **(kwargs or {}))


def _grouped(input: Tensor, weight: Tensor, **others: Any) -> Tensor:
    """Rows (S, in) times the experts' (E, in, out): saved are the rows and the weights, as by one product."""
    return input @ weight[0]


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    mask, width = None if attn_mask is None else attn_mask.to(query.dtype), value.shape[-1]
    if value.shape[-1] < query.shape[-1]:  # the kernel takes values of the width of keys
        value = functional.pad(value, (0, query.shape[-1] - value.shape[-1]))
    attended = flash_attention_on_cpu(query, key, value, dropout_p, is_causal, attn_mask=mask, scale=scale)
    return attended[..., :width]
