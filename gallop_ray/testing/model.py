"""A tiny base model, and functions to compare a model before and after a run."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from gallop_ray.compat.torch import has_hooks, parameter_table
from gallop_ray.sparse.weights import gather
from gallop_ray.spec.data import ModelSpec
from gallop_ray.training.pocket import pocket_tokenizer

EVERYWHERE = ("*_proj", "embed_tokens", "*norm", "lm_head")
"""Target modules: all weights that a mask can contain."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


def llama(**options: Any) -> LlamaForCausalLM:
    """A model of two blocks, the same every time; `options` of its LlamaConfig besides the sizes."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **options,
    )
    return LlamaForCausalLM(config)


def of_pocket_vocabulary(**options: Any) -> tuple[LlamaForCausalLM, Any]:
    """A tiny model for the pocket model's tokenizer, and the tokenizer."""
    tokenizer = pocket_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    return llama(vocab_size=len(tokenizer), **ids, **options), tokenizer


def load(spec: ModelSpec) -> tuple[LlamaForCausalLM, Any]:
    """The tiny model and its tokenizer, for load_base_model's `load`."""
    model, tokenizer = of_pocket_vocabulary()
    return model.to(getattr(torch, spec.dtype)).eval(), tokenizer


def whole_weights(base: nn.Module) -> dict[str, Tensor]:
    """All parameters, gathered, by name. Collective."""
    return {name: gather(p).clone() for name, p in base.named_parameters()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights are equal, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[n].view(torch.uint8), b[n].view(torch.uint8)) for n in a)


def traces(model: nn.Module) -> list[Any]:
    """Everything besides weights that a run could leave behind on modules and parameters."""
    hooks = [(name, h, sorted(getattr(module, h))) for name, module in model.named_modules() for h in HOOKS]
    kinds = [(name, type(module).__name__, sorted(parameter_table(module))) for name, module in model.named_modules()]
    parameters = [(name, p.requires_grad, p.grad is None, *has_hooks(p)) for name, p in model.named_parameters()]
    return [hooks, kinds, parameters]
