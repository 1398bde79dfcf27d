"""A tiny base model and data, as a slot's worker would hold them, and the slow dense reference to train against."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from gallop_ray.sparse.base_state import BaseState
from gallop_ray.spec.schema import Configuration, Sweep
from gallop_ray.tasks.encode import IGNORED, Encoded
from gallop_ray.testing.model import EVERYWHERE, llama, of_pocket_vocabulary, same, whole_weights
from gallop_ray.training.context import NullReporter, Phases, Reporter, RunContext
from gallop_ray.training.engine import init_distributed, quiet, split_over_ranks
from gallop_ray.training.resident import LoadedModel

__all__ = [
    "EVERYWHERE",
    "context",
    "examples",
    "llama",
    "mask_tensors",
    "model",
    "of_pocket_vocabulary",
    "resident",
    "same",
    "sweep",
    "whole_weights",
]
VOCABULARY = 96


def sweep(stage: int = 0, dtype: str = "float32", workers: int = 1, **training: Any) -> Sweep:
    """A sweep around the tiny model; `training` overrides training fields."""
    return Sweep.model_validate(
        {
            "name": "tiny",
            "model": {"name": "tiny", "dtype": dtype},
            "data": {"root": "generated", "train": "none"},
            "methods": [{"type": "gallop"}],
            "resources": {"workers_per_slot": workers},
            "deepspeed": {"zero_stage": stage},
            "training": {"batch_size": 8, "micro_batch_size": 2, "steps": 5, "learning_rate": 1e-2, **training},
        }
    )


def model(dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """About 60,000 parameters."""
    return llama(vocab_size=VOCABULARY, use_cache=False).to(dtype).requires_grad_(False)


def examples(count: int = 24) -> list[Encoded]:
    """Random token sequences of several lengths; the last third of each is the answer."""
    generator = torch.Generator().manual_seed(7)
    made = []
    for i in range(count):
        ids = torch.randint(1, VOCABULARY, (6 + 3 * (i % 4),), generator=generator).tolist()
        prompt = len(ids) * 2 // 3
        made.append(Encoded(ids, [IGNORED] * prompt + ids[prompt:]))
    return made


def resident(made_sweep: Sweep) -> LoadedModel:
    """A LoadedModel as load_base_model makes it, but of the tiny model."""
    quiet()
    init_distributed()
    base = model(getattr(torch, made_sweep.model.dtype))
    whole = LoadedModel(
        sweep=made_sweep,
        model=base,
        tokenizer=SimpleNamespace(pad_token_id=0),
        base_hash="tiny",
        parameters=sum(p.numel() for p in base.parameters()),
        tasks={},
        train=examples(),
    )
    if whole.stage == 3:
        split_over_ranks(base, whole.config(made_sweep.training))
    else:
        base.to(whole.device)
    return replace(whole, at_rest=BaseState(base))


def context(
    whole: LoadedModel,
    seed: int = 3,
    reporter: Reporter | None = None,
    method: Mapping[str, Any] | None = None,
    **training: Any,
) -> RunContext:
    """A run on a resident; `training` overrides the sweep's fields."""
    reporter = reporter or NullReporter(Path("adapter.safetensors"))
    tuned = whole.sweep.training.model_dump() | training
    configuration = Configuration.model_validate({"method": method or {"type": "gallop"}, "training": tuned})
    return RunContext(whole, configuration, seed, reporter, Phases(reporter))


def mask_tensors(
    density: float = 0.05, empty: str = "layers.1.self_attn.q_proj", everywhere: bool = False
) -> dict[str, Tensor]:
    """Random boolean masks of the block's matrices, the last entry of each chosen, one matrix without any.

    everywhere: of all weights, embeddings and norms, too.
    """
    generator = torch.Generator().manual_seed(1)
    masks = {}
    for name, parameter in model().named_parameters():
        if everywhere or ("layers" in name and parameter.ndim == 2):
            chosen = torch.rand(parameter.shape, generator=generator) < density
            chosen.view(-1)[-1] = True
            masks[name.removesuffix(".weight")] = chosen & (empty not in name)
    return masks
