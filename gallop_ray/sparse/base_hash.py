"""The identity of a base model: a hash of its weights."""

import hashlib

import torch
from torch import nn


def base_hash(model: nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of all parameters, shared ones once. The weights must be whole."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        whole = parameter.detach().cpu().contiguous()
        digest.update(whole.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
