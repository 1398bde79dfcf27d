"""What the passes of a micro-batch keep alive, found on the meta device: shapes and names, no weights, no data."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.modeling_layers import GradientCheckpointingLayer

from gallop_ray.compat.torch import GROUPED_PRODUCTS, flash_attention_on_cpu, storage_key
from gallop_ray.sparse.candidates import Candidate, places
from gallop_ray.spec.training import TrainingSpec
from gallop_ray.training.curvature import asking
from gallop_ray.training.model_checks import first_line
from gallop_ray.training.run import checkpointing

_FLOAT32 = 4


def if_known(passes: Callable[[bool], int], module: nn.Module) -> tuple[int, str]:
    """The bytes of passes with a full mask or none, and "", or 0 and why they cannot be computed.

    A forward pass on the meta device asks more of a model's code than a real one: it is tried with a full mask, as for
    a batch with padding, then without a mask. An estimate decides nothing, so a failure is reported, not raised.
    """
    errors: list[Exception] = []
    for whole_mask in (True, False):
        try:
            return passes(whole_mask), ""
        except Exception as failure:  # of whatever class the model's own code raises
            errors.append(failure)
        finally:
            module.eval()
    return 0, first_line(errors[0])


def activations(
    module: nn.Module, model: Any, training: TrainingSpec, answer: int, formed: Sequence[Tensor], whole_mask: bool
) -> int:
    """Bytes alive at the peak of the backward pass, besides the weights and its results.

    answer: tokens of an answer. formed: the matrices whose complete gradient is formed, one at a time.
    """
    inputs = _batch(training.micro_batch_size, training.max_length, whole_mask)
    # Packed rows may have answers anywhere.
    at = training.max_length if training.packing else _positions(training, answer)
    kept = torch.empty(at, dtype=torch.long, device="meta")
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
    # Alternatives, in the order of the backward pass: logits of answers and of all positions; the head; the last block,
    # which may be recomputed. They do not overlap.
    return saved + max(answers + 2 * logits, logits + of_head, again + of_block)


def second_derivative(
    model: Any, training: TrainingSpec, answer: int, candidates: Sequence[Candidate], whole_mask: bool
) -> int:
    """Bytes that two derivatives of a micro-batch save, and of the gradients that each of them gives."""
    weights = [p.weight for p in places(candidates)]
    inputs = _batch(training.micro_batch_size, training.max_length, whole_mask)
    kept = torch.empty(_positions(training, answer), dtype=torch.long, device="meta")

    def first() -> tuple[Tensor, ...]:
        logits = model(**inputs, use_cache=False, logits_to_keep=kept).logits.float().flatten(0, 1)
        targets = torch.empty(len(logits), dtype=torch.long, device="meta")
        loss = functional.cross_entropy(logits, targets)
        return torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)

    with _MetaKernels(fused=False), asking(weights):
        saved, _ = saved_for_backward(model, first)
    return int(saved + 2 * sum(w.nbytes for w in weights))


def _positions(training: TrainingSpec, answer: int) -> int:
    """At most: logits are computed at positions where some example of the batch has an answer."""
    return min(training.micro_batch_size * answer, training.max_length)


def _batch(examples: int, tokens: int, whole_mask: bool) -> dict[str, Tensor]:
    """A batch as the model sees it, with padding if it takes a whole mask."""
    ids = torch.empty(examples, tokens, dtype=torch.long, device="meta")
    # Four dimensions: from a mask of two a model makes this itself, but reads its values first, which meta lacks.
    mask = torch.empty(examples, 1, tokens, tokens, dtype=torch.bool, device="meta") if whole_mask else None
    return {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask}


@contextmanager
def _calls(modules: Sequence[nn.Module]) -> Iterator[list[tuple[nn.Module, Any, Any]]]:
    """Context manager: records calls of these modules as (module, arguments, keyword arguments)."""
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
    """Bytes that autograd saves in `forward()`, without the module's parameters and buffers; and its result."""
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
    """Makes operations on the meta device save what the CPU and GPU kernels save.

    By default that device computes attention by the plain formula, which saves every attention weight, and has the
    experts' grouped products in bfloat16 only.

    fused: whether attention saves no weights; else it is computed by that formula.
    """

    def __init__(self, fused: bool = True) -> None:
        super().__init__()
        self.fused = fused

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.fused and func is functional.scaled_dot_product_attention:
            func = _fused
        elif func in GROUPED_PRODUCTS:
            func = _grouped
        return func(*args, **(kwargs or {}))


def _grouped(input: Tensor, weight: Tensor, **others: Any) -> Tensor:
    """Rows (S, in) times the experts' (E, in, out): like one product, it saves the rows and the weights."""
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
