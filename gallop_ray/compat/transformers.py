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
    """The name of the attention that a loaded model's configuration has settled on."""
    return str(config._attn_implementation)


def template_globals(template: str) -> dict[str, Any]:
    """What a chat template can call. Raises what Jinja raises for a template that is wrong.

    The only place of its clock: keyword arguments reach a template as plain data, not as functions. transformers keeps
    the compiled template, per text, so that a change holds for all prompts of the process.
    """
    compiled: Any = _compile_jinja_template(template)
    found: dict[str, Any] = compiled.globals
    return found


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """While this is open the blocks are checkpointed although the model is in evaluation mode."""
    blocks: list[Any] = [block for block in model.modules() if isinstance(block, GradientCheckpointingLayer)]
    checkpoints = [block._gradient_checkpointing_func for block in blocks]
    for block, checkpoint in zip(blocks, checkpoints, strict=True):
        # transformers looks at the block's mode to decide whether to checkpoint; some blocks then drop out themselves.
        block.training, block._gradient_checkpointing_func = True, partial(_evaluated, block, checkpoint)
    try:
        yield
    finally:
        for block, checkpoint in zip(blocks, checkpoints, strict=True):
            block.training, block._gradient_checkpointing_func = False, checkpoint


def _evaluated(block: nn.Module, checkpoint: Callable[..., Any], forward: Callable[..., Any], *args: Any) -> Any:
    """The block's checkpointed forward pass, in evaluation mode: now, and when it is computed again."""

    def in_evaluation(*inputs: Any) -> Any:
        block.training = False
        try:
            return forward(*inputs)
        finally:
            block.training = True

    return checkpoint(in_evaluation, *args)
