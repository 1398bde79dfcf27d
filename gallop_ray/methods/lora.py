"""LoRA through PEFT (arXiv 2106.09685)."""

from collections.abc import Mapping
from pathlib import Path

import peft
from safetensors.torch import save_file
from torch import nn

from gallop_ray.methods.contract import TunerMethod
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.weights import gather, rank
from gallop_ray.spec.methods import LoraSpec


class _PeftAttachment:
    """A PEFT adapter around the base model, whose own weights stay frozen."""

    def __init__(self, model: nn.Module, config: peft.PeftConfig) -> None:
        # In the model's dtype: DeepSpeed keeps the float32 masters.
        self.module = peft.get_peft_model(model, config, autocast_adapter_dtype=False)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]

    def write(self) -> None:
        """Forward reads the adapter's parameters."""

    def settle(self) -> None:
        """The saved parameters are the trained ones."""

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """The adapter's parameters under the names that PEFT gives them on disk."""
        trained = {name: gather(p).cpu() for name, p in self.module.named_parameters() if p.requires_grad}
        if rank() == 0:
            on_disk = {name.replace(".default.", "."): value.contiguous() for name, value in trained.items()}
            save_file(on_disk, path, metadata={"format": "gallop_ray peft 1", **metadata})

    def detach(self) -> None:
        self.module.unload()


class Lora(TunerMethod):
    """W x + (alpha / r) B A x on the target modules; the default targets are those of the mask methods."""

    def __init__(self, spec: LoraSpec) -> None:
        self.spec = spec

    def attach(self, model: nn.Module) -> _PeftAttachment:
        names = [c.name for c in find_candidates(model, self.spec.target_modules)]
        spec = self.spec
        config = peft.LoraConfig(r=spec.rank, lora_alpha=spec.alpha, lora_dropout=spec.dropout, target_modules=names)
        return _PeftAttachment(model, config)
