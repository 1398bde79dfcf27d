"""transformers: how a model computes attention, and gradient checkpointing in evaluation mode."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from transformers import PretrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.chat_template_utils import _compile_jinja_template

from gallop_ray.compat.probe import require


def probe() -> None:
    """Raises Incompatible."""
    call = inspect.getsource(GradientCheckpointingLayer)
    require(
        "transformers",
        {
            "GradientCheckpointingLayer._gradient_checkpointing_func": lambda: "_gradient_checkpointing_func" in call,
            "PretrainedConfig._attn_implementation": lambda: PretrainedConfig._attn_implementation,
        },
    )


def attention_of(config: Any) -> str:
    """The name of the attention implementation that a loaded model uses."""
    return str(config._attn_implementation)


def template_globals(template: str) -> dict[str, Any]:
    """The functions that a chat template can call. Raises what Jinja raises for an invalid template.

    The only way to set its clock: keyword arguments reach a template as plain data, not as functions. transformers
    caches the compiled template by its text, so that a change holds for all prompts of the process.
    """
    compiled: Any = _compile_jinja_template(template)
    found: dict[str, Any] = compiled.globals
    return found


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Context manager: the blocks are checkpointed although the model is in evaluation mode."""
    blocks: list[Any] = [block for block in model.modules() if isinstance(block, GradientCheckpointingLayer)]
    checkpoints = [block._gradient_checkpointing_func for block in blocks]
    for block, checkpoint in zip(blocks, checkpoints, strict=True):
        # transformers checkpoints only blocks in training mode, in which some would apply dropout: `_evaluated` sets
        # the mode back inside.
        block.training, block._gradient_checkpointing_func = True, partial(_evaluated, block, checkpoint)
    try:
        yield
    finally:
        for block, checkpoint in zip(blocks, checkpoints, strict=True):
            block.training, block._gradient_checkpointing_func = False, checkpoint


def _evaluated(block: nn.Module, checkpoint: Callable[..., Any], forward: Callable[..., Any], *args: Any) -> Any:
    """The block's checkpointed forward pass in evaluation mode, both now and when it is recomputed."""

    def in_evaluation(*inputs: Any) -> Any:
        block.training = False
        try:
            return forward(*inputs)
        finally:
            block.training = True

    return checkpoint(in_evaluation, *args)
