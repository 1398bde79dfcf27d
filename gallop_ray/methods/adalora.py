"""AdaLoRA (arXiv 2303.10512) through PEFT: ranks are pruned while it trains, by the importance of their parameters."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gallop_ray.methods.hooks import Masters
from gallop_ray.methods.peft import PeftAttachment
from gallop_ray.sparse.weights import is_split
from gallop_ray.spec.adalora import NAME, Schedule

if TYPE_CHECKING:
    import peft

_RANKS = "ranks."


class AdaLoraAttachment(PeftAttachment):
    """Matrices B diag(E) A, of which entries of E become 0.

    PEFT's allocator decides which; it is shown float32 copies of the parameters, with the gradients of all ranks: its
    running means in bfloat16 would give many ranks the same importance.
    """

    def __init__(self, model: nn.Module, config: "peft.PeftConfig", options: Mapping[str, Any]) -> None:
        if any(is_split(p) for p in model.parameters()):
            raise ValueError("it needs whole parameters for its loss and its ranks; use zero_stage 2 or less")
        super().__init__(model, config)
        from gallop_ray.compat.peft import allocator_of

        self._config: Any = config
        self._options = options
        self._allocator = allocator_of(self.module)
        inner: Any = self.module.base_model
        for name, p in inner.model.named_parameters():
            if ".ranknum." in name:  # a constant of the scale, which PEFT trains where it casts it to bfloat16
                p.requires_grad_(False)
        named = [(name, p) for name, p in inner.model.named_parameters() if p.requires_grad]
        assert [id(p) for _, p in named] == [id(p) for p in self.parameters]
        self._names = [name for name, _ in named]

    def before_training(self, steps: int) -> None:
        """See Adapting."""
        self._schedule = Schedule.of(self._options, steps)
        for name, value in asdict(self._schedule).items():
            setattr(self._config, name, value)

    def regularizer(self) -> Tensor:
        """orth_reg_weight times the mean over all A and B of ||A A^T - I||, or ||B^T B - I||: PEFT's term.

        PEFT adds it to a loss of the model's own, which is not asked for here.
        """
        terms = []
        for name, p in zip(self._names, self.parameters, strict=True):
            if ".lora_E." not in name:
                factor = p.float() if ".lora_A." in name else p.float().T
                product = factor @ factor.T
                terms.append((product - torch.eye(len(product), device=product.device)).norm())
        weight: float = self._config.orth_reg_weight
        return weight * torch.stack(terms).mean()

    def takes_gradients(self, step: int) -> bool:
        """Until the last pruning. See Adapting."""
        return step <= self._schedule.last_pruning

    def after_step(self, step: int, gradients: Sequence[Tensor], masters: Masters) -> None:
        """Measure importance, and prune; after the last pruning, keep the pruned at 0. See Adapting."""
        last = self._schedule.last_pruning
        if step <= last:
            shown = _Shown(self._names, self.parameters, gradients)
            _, found = self._allocator.update_and_allocate(shown, step, force_mask=step == last)
            if found is None:
                return
            self._config.rank_pattern = found
        if step == last:
            self._allocator.reset_ipt()
        number = {name: n for n, name in enumerate(self._names)}
        ranks = self._config.rank_pattern
        masters.clear({number[name]: ~torch.tensor(kept) for name, kept in ranks.items()})

    def kept(self) -> dict[str, Tensor]:
        """The allocator's running means, and which ranks are left."""
        means = {f"{kind}.{name}": value for kind, values in self._means() for name, value in values.items()}
        ranks = self._config.rank_pattern or {}
        return means | {f"{_RANKS}{name}": torch.tensor(kept) for name, kept in ranks.items()}

    def recall(self, kept: Mapping[str, Tensor]) -> None:
        """See Keeping."""
        self._allocator.reset_ipt()
        for kind, values in self._means():
            for name, p in zip(self._names, self.parameters, strict=True):
                if (mean := kept.get(f"{kind}.{name}")) is not None:
                    values[name] = mean.to(p.device, copy=True)
                    self._allocator.ipt[name] = torch.zeros_like(values[name])  # without it PEFT would start from zero
        ranks = {n.removeprefix(_RANKS): t.tolist() for n, t in kept.items() if n.startswith(_RANKS)}
        self._config.rank_pattern = ranks or None

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """The adapter's parameters, with the schedule that they were trained by; rank 0 writes."""
        super().save(path, {**metadata, NAME: json.dumps(asdict(self._schedule))})

    def exported(self, saved: dict[str, Tensor], metadata: Mapping[str, str]) -> tuple[Any, dict[str, Tensor]]:
        """Without the pruned ranks, which the configuration lists. See PeftAttachment."""
        config, tensors = super().exported(saved, metadata)
        for name, value in json.loads(metadata[NAME]).items():
            setattr(config, name, value)
        config.rank_pattern = {}
        for name in [n for n in saved if n.endswith(".lora_E")]:
            left = saved[name].view(-1) != 0
            config.rank_pattern[name.removeprefix("base_model.model.")] = left.tolist()
            of_rows, of_columns = name, f"{name[:-1]}B"
            tensors |= {row: saved[row][left].contiguous() for row in (of_rows, f"{name[:-1]}A")}
            tensors[of_columns] = saved[of_columns][:, left].contiguous()
        return config, tensors

    def _means(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        yield "importance", self._allocator.exp_avg_ipt
        yield "uncertainty", self._allocator.exp_avg_unc


class _Shown:
    """What PEFT's allocator sees of the model: float32 values with gradients, by name."""

    def __init__(self, names: Sequence[str], parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
        self._named = []
        for name, p, gradient in zip(names, parameters, gradients, strict=True):
            value = p.detach().to(torch.float32, copy=True)
            value.grad = gradient.view_as(value)
            self._named.append((name, value))

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """As of a module."""
        yield from self._named
