"""What a base model computes with besides its weights: fields of its configuration, and persistent buffers.

Only fields that both sides have are compared: another version of transformers adds and moves fields without changing
what is computed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

import torch
from torch import nn

Settings = Mapping[str, str | int | float | bool]

_SAYS_NOTHING = (  # about what the forward pass computes: names, versions, and options of a single call
    "architectures", "auto_map", "chunk_size_feed_forward", "dtype", "finetuning_task", "id2label", "label2id",
    "name_or_path", "output_attentions", "output_hidden_states", "problem_type", "return_dict",
    "task_specific_params", "torch_dtype", "torchscript", "transformers_version", "use_cache",
)  # fmt: skip


def base_settings(model: nn.Module) -> dict[str, str | int | float | bool]:
    """By name, the fields of the configuration that change what is computed, and a hash of each persistent buffer."""
    config = getattr(model, "config", None)
    found = dict(_fields(config.to_dict(), "")) if config is not None else {}
    stored = model.state_dict(keep_vars=True)
    for name, buffer in model.named_buffers():
        if name in stored:
            whole = buffer.detach().cpu().contiguous()
            data = whole.view(-1).view(torch.uint8).numpy().data if whole.numel() else b""
            digest = hashlib.sha256(f"{whole.dtype} {tuple(whole.shape)}\n".encode())
            digest.update(data)
            found[f"buffer {name}"] = digest.hexdigest()
    return found


def differing(before: Settings, now: Settings) -> list[str]:
    """The settings that both have with different values, described for a message."""
    return [
        f"{name} (was {_short(value)}, is {_short(now[name])})"
        for name, value in before.items()
        if name in now and now[name] != value
    ]


def _fields(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str | int | float | bool]]:
    for name, value in config.items():
        if name in _SAYS_NOTHING or name.startswith(("_", "init")) or name.endswith("_token_id"):
            continue
        if isinstance(value, Mapping):
            yield from _fields(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{name}", json.dumps(value, default=str)
        elif isinstance(value, str | int) or (isinstance(value, float) and isfinite(value)):
            yield f"{prefix}{name}", value


def _short(value: object) -> str:
    return str(value)[:12]
