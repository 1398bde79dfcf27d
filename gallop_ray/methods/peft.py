"""LoRA, DoRA and every other tuner that PEFT has."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import peft
from torch import nn
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from gallop_ray.methods.contract import TunerMethod
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.checked import save_checked
from gallop_ray.sparse.weights import gather, is_split, rank
from gallop_ray.spec.formats import PEFT
from gallop_ray.spec.methods import PeftSpec


class _PeftAttachment:
    """A PEFT adapter around the base model, whose own weights stay frozen."""

    def __init__(self, model: nn.Module, config: peft.PeftConfig) -> None:
        split = any(is_split(p) for p in model.parameters())
        # While this object lives PEFT gathers the weights that it looks at (DoRA's row norms) over the ranks.
        announced = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}}) if split else None
        # In the model's dtype: DeepSpeed keeps the float32 masters.
        self.module = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
        del announced

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]

    def write(self) -> None:
        """Forward reads the adapter's parameters."""

    def settled(self) -> AbstractContextManager[None]:
        """The trained parameters are the saved ones at any time."""
        return nullcontext()

    def settle(self) -> None:
        """The saved parameters are the trained ones."""

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """The adapter's parameters under the names that PEFT gives them on disk."""
        trained = {name: gather(p).cpu() for name, p in self.module.named_parameters() if p.requires_grad}
        if rank() == 0:
            tensors = {on_disk(name): value.contiguous() for name, value in trained.items()}
            save_checked(path, tensors, {"format": PEFT, **metadata})

    def detach(self) -> None:
        self.module.unload()


class Lora(TunerMethod):
    """W x + (alpha / r) B A x on the target modules; the default targets are those of the mask methods."""

    decompose = False

    def attach(self, model: nn.Module) -> _PeftAttachment:
        spec = self.spec
        config = peft.LoraConfig(
            r=spec.rank,
            lora_alpha=spec.chosen_alpha,
            lora_dropout=spec.dropout,
            target_modules=_names(model, spec.target_modules),
            use_dora=self.decompose,
        )
        return _PeftAttachment(model, config)


class Dora(Lora):
    """LoRA on the direction of each weight row, with a magnitude of its own that is trained, too."""

    decompose = True


class Peft(TunerMethod):
    """Any tuner of PEFT by its name there. Raises ValueError for a name or an option that PEFT does not know."""

    def __init__(self, spec: PeftSpec) -> None:
        super().__init__(spec)
        if self._type not in peft.PEFT_TYPE_TO_CONFIG_MAPPING:
            known = ", ".join(sorted(t.value.lower() for t in peft.PEFT_TYPE_TO_CONFIG_MAPPING))
            raise ValueError(f"PEFT has no tuner {spec.tuner!r}; it has {known}")

    @property
    def _type(self) -> Any:
        return self.spec.tuner.upper()

    def attach(self, model: nn.Module) -> _PeftAttachment:
        try:
            config: Any = peft.PEFT_TYPE_TO_CONFIG_MAPPING[self._type](task_type="CAUSAL_LM", **self.spec.options)
        except TypeError as error:
            raise ValueError(f"PEFT's {self.spec.tuner}: {error}") from None
        if getattr(config, "target_modules", "none") is None:
            config.target_modules = set(_names(model, self.spec.target_modules))
        return _PeftAttachment(model, config)


def _names(model: nn.Module, patterns: tuple[str, ...] | None) -> list[str]:
    return [c.name for c in find_candidates(model, patterns)]


def on_disk(name: str) -> str:
    """What PEFT calls a parameter in a file: without the adapter's name, which is the last or the last but one part."""
    return name.replace(".default", "")
