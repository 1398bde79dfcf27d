"""What ours is compared with, in plain PyTorch. No DeepSpeed here: its memory counts as ours."""

from collections.abc import Callable
from typing import Any

import peft
import torch

from benchmarks.arms import Work
from benchmarks.models import RATE, TARGETS, Setting, base_model, device, examples, plain_loss
from gallop_ray.sparse.candidates import find_candidates

_RANK = 8
_PEFT: dict[str, Callable[[], peft.PeftConfig]] = {
    "lora": lambda: peft.LoraConfig(r=_RANK, lora_dropout=0.0, target_modules=list(TARGETS)),
    "dora": lambda: peft.LoraConfig(r=_RANK, lora_dropout=0.0, target_modules=list(TARGETS), use_dora=True),
    "shira": lambda: peft.ShiraConfig(r=_RANK, target_modules=list(TARGETS)),
}


def adapter(shared: Setting, kind: str, masters: bool = True) -> Work:
    """PEFT's tuner `kind`: as it comes, with float32 parameters, or with parameters in the model's dtype alone."""
    model = peft.get_peft_model(base_model(shared), _PEFT[kind](), autocast_adapter_dtype=masters)
    return _plain(shared, model if masters else model.to(getattr(torch, shared.dtype)))


def full(shared: Setting) -> Work:
    """Every parameter of the model."""
    return _plain(shared, base_model(shared).requires_grad_(True))


def _plain(shared: Setting, model: Any) -> Work:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    made = examples(shared, model.config.vocab_size)
    model.train()

    def run() -> dict[str, int]:
        plain_loss(model, made).backward()
        optimizer.step()
        optimizer.zero_grad()
        return {"trained": sum(p.numel() for p in parameters)}

    return Work(run)


def weight_gradients(shared: Setting) -> Work:
    """The matrix products of a step that form dW of the target layers, and nothing else."""
    tokens, dtype = shared.sequences * shared.length, getattr(torch, shared.dtype)
    shapes = [c.shape for c in find_candidates(base_model(shared), TARGETS)]
    widths = {width for shape in shapes for width in shape}
    random = {width: torch.randn(tokens, width, dtype=dtype, device=device()) for width in widths}

    def run() -> dict[str, int]:
        for out_features, in_features in shapes:
            random[out_features].t() @ random[in_features]
        return {"products": len(shapes)}

    return Work(run)
