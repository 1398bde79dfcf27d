"""LoRA that begins with a part of the weights: PiSSA (arXiv 2404.02948) and OLoRA (arXiv 2406.01775) through PEFT.

PEFT subtracts that part, s B0 A0, from the weight. Here the weight stays as it is, and a second, frozen adapter of
scale -s subtracts it from the layer's output: W x - s B0 A0 x + s B A x.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gallop_ray.methods.peft import PeftAttachment, on_disk
from gallop_ray.sparse.weights import gather, rank

if TYPE_CHECKING:
    import peft

START = "initial"
"""PEFT's name of the frozen adapter."""
_FACTORS = ("lora_A", "lora_B")


class StartedLoraAttachment(PeftAttachment):
    """LoRA whose first product is subtracted by a frozen copy of it."""

    def __init__(self, model: nn.Module, config: "peft.PeftConfig") -> None:
        from gallop_ray.compat.peft import weights_as_they_are

        with weights_as_they_are():
            super().__init__(model, config)
        self._add_frozen(config)
        self._copy_start()

    def kept(self) -> dict[str, Tensor]:
        """The first factors: found again elsewhere they would differ in their last digits, or in signs."""
        return {name: gather(p).detach().cpu().clone() for name, p in self._frozen()}

    def recall(self, kept: Mapping[str, Tensor]) -> None:
        """See Keeping: training has begun from them, too."""
        trained = dict(self.module.named_parameters())
        with torch.no_grad():
            for name, p in self._frozen():
                p.copy_(kept[name])
                trained[_trained(name)].copy_(kept[name])

    def tensors(self, but: Sequence[nn.Parameter] = ()) -> dict[str, Tensor]:
        """As PeftAttachment, and the first factors by PEFT's names of the frozen adapter."""
        trained, first = super().tensors(but), self.kept()  # both collective
        return trained | {on_disk(name): value.contiguous() for name, value in first.items() if rank() == 0}

    @torch.no_grad()
    def fill(self, saved: Mapping[str, Tensor]) -> None:
        """As PeftAttachment; the first factors, too."""
        super().fill({name: value for name, value in saved.items() if f".{START}." not in name})
        for name, p in self._frozen():
            p.copy_(saved[on_disk(name)])

    def exported(self, saved: dict[str, Tensor], metadata: Mapping[str, str]) -> tuple[Any, dict[str, Tensor]]:
        """A plain LoRA of twice the rank: B A - B0 A0 = [B, -B0] [A; A0]."""
        config, tensors = super().exported(saved, metadata)
        for name in [n for n in saved if f".{START}." in n]:
            first, trained = tensors.pop(name), name.replace(f".{START}.", ".")
            of_a = ".lora_A." in name
            both = [tensors[trained], first if of_a else -first]
            tensors[trained] = torch.cat(both, dim=0 if of_a else 1).contiguous()
        return _of_twice_the_rank(config), tensors

    def _add_frozen(self, config: "peft.PeftConfig") -> None:
        from peft.tuners.lora import LoraLayer

        plain: Any = deepcopy(config)
        # Without dropout: PEFT's own form subtracts from the weight, which has none.
        plain.init_lora_weights, plain.lora_dropout, plain.lora_bias = True, 0.0, False
        self.module.add_adapter(START, plain, autocast_adapter_dtype=False)
        inner: Any = self.module.base_model
        inner.set_adapter(["default", START])
        for _, p in self._frozen():
            p.requires_grad_(False)
        for layer in self.module.modules():
            if isinstance(layer, LoraLayer):
                layer.scaling[START] = -layer.scaling["default"]

    @torch.no_grad()
    def _copy_start(self) -> None:
        trained = dict(self.module.named_parameters())
        for name, p in self._frozen():
            if not trained[_trained(name)].is_meta:  # an export needs the configuration alone
                p.copy_(trained[_trained(name)])

    def _frozen(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, p in self.module.named_parameters():
            if f".{START}." in name or name.endswith(f".{START}"):
                if not any(f".{factor}.{START}.weight" in name for factor in _FACTORS):
                    raise ValueError(f"it is for linear layers, and {name.partition('.lora_')[0]} is none")
                yield name, p


def _trained(name: str) -> str:
    return name.replace(f".{START}.", ".default.")


def _of_twice_the_rank(config: Any) -> Any:
    """The configuration of the exported adapter, of the same scale: alpha / r, or alpha / sqrt(r) with use_rslora."""
    wide, by = deepcopy(config), math.sqrt(2) if config.use_rslora else 2
    wide.r, wide.lora_alpha, wide.init_lora_weights = 2 * config.r, by * config.lora_alpha, True
    wide.rank_pattern = {name: 2 * r for name, r in config.rank_pattern.items()}
    wide.alpha_pattern = {name: by * alpha for name, alpha in config.alpha_pattern.items()}
    return wide
