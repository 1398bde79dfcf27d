"""The same bits in every repetition, which resumed and interleaved runs are promised, on a GPU, too."""

import os
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward


def make_deterministic() -> None:
    """Have torch's kernels give the same bits in every repetition; those that cannot warn. Call before each run."""
    # cuBLAS looks at it when the process first multiplies: with other workspaces it may add in another order.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling DeepSpeed's buffers with NaN at every step costs more than the step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    AttentionInterface.register("sdpa", _attention)


def _attention(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """transformers' own attention, with a backward pass that repeats itself on a GPU."""
    attended, nothing = sdpa_attention_forward(*args, **kwargs)
    if attended.is_cuda:
        repeat_backward(attended)
    return attended, nothing


def repeat_backward(attended: Tensor) -> None:
    """Make the attention's backward kernel add in a fixed order.

    Flash and memory-efficient attention do so where torch is told to raise an error for kernels that cannot, and not
    where it warns of them. It is told so for this one node of the graph: others may have no such kernel.
    """
    node: Any = attended.grad_fn
    while node is not None and "ScaledDotProduct" not in node.name():
        node = node.next_functions[0][0] if node.next_functions else None
    if node is not None:
        node.register_prehook(lambda *_: torch.use_deterministic_algorithms(True))
        node.register_hook(lambda *_: torch.use_deterministic_algorithms(True, warn_only=True))
