"""Full fine-tuning: every parameter of the model."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gallop_ray.methods.contract import TunerMethod
from gallop_ray.sparse.weights import gather, local, rank
from gallop_ray.spec.methods import FullSpec


class _FullAttachment:
    """All parameters, and a copy of what this rank stores of them, to come back to."""

    def __init__(self, model: nn.Module) -> None:
        self.module = model
        self._base = {name: local(p).clone() for name, p in model.named_parameters()}
        model.requires_grad_(True)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.module.parameters())

    def write(self) -> None:
        """The optimizer trains the weights themselves."""

    def settle(self) -> None:
        """The saved weights are the trained ones."""

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """All trained weights in the model's dtype, shared ones once."""
        weights: dict[str, Tensor] = {}
        for name, parameter in self.module.named_parameters():
            whole = gather(parameter)
            if rank() == 0:
                weights[name] = whole.detach().cpu().contiguous()
        if rank() == 0:
            save_file(weights, path, metadata={"format": "gallop_ray full 1", **metadata})

    @torch.no_grad()
    def detach(self) -> None:
        self.module.requires_grad_(False)
        for name, parameter in self.module.named_parameters():
            local(parameter).copy_(self._base[name])


class Full(TunerMethod):
    """Trains everything; the upper end of what a method can learn, and of what it can forget."""

    def __init__(self, spec: FullSpec) -> None:
        self.spec = spec

    def attach(self, model: nn.Module) -> _FullAttachment:
        return _FullAttachment(model)
