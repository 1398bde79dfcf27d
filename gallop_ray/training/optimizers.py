"""Optimizers by name, AdamW for masks whose entries are not all of one age, and weight decay to the base values."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gallop_ray.methods import MaskMethod, RefreshedMethod
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.spec.schema import TrainingSpec
from gallop_ray.training.engine import Engine


class EntryAdamW(torch.optim.Optimizer):
    """AdamW (arXiv 1711.05101) in which every entry counts its own steps, in a vector `age` beside its moments.

    An entry whose moments and age are set to 0 begins like all did at the first step. With one count for all, the bias
    correction would take its young second moment for an old one, and it would move by several learning rates a step.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient; closures are not called."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad.to(parameter.dtype), group)

    def _step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        for name in ("exp_avg", "exp_avg_sq", "age"):
            if name not in state:
                state[name] = torch.zeros_like(parameter, dtype=torch.float32)
        age, first, second = state["age"].add_(1), state["exp_avg"], state["exp_avg_sq"]
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        size = second.div(1 - beta2**age).sqrt_().add_(group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(first.div(1 - beta1**age).div_(size), alpha=group["lr"])


def make_optimizer(
    training: TrainingSpec, parameters: Iterable[nn.Parameter], entry_ages: bool = False
) -> torch.optim.Optimizer:
    """The optimizer that the sweep asks for, with its learning rate and weight decay.

    entry_ages: for masks that change, whose newcomers count their own steps; only AdamW has a form of that kind.
    Raises ValueError for a name or an option that torch does not know.
    """
    classes = {name.lower(): c for name, c in vars(torch.optim).items() if isinstance(c, type)}
    kind = classes.get(training.optimizer.lower())
    if kind is None or kind is torch.optim.Optimizer or not issubclass(kind, torch.optim.Optimizer):
        known = sorted(name for name, c in classes.items() if issubclass(c, torch.optim.Optimizer))
        raise ValueError(f"training.optimizer: torch has no {training.optimizer!r}; it has {', '.join(known)}")
    if entry_ages and kind is torch.optim.AdamW:
        kind = EntryAdamW
    options = {"lr": training.learning_rate, "weight_decay": training.weight_decay, **training.optimizer_options}
    try:
        return kind(parameters, **options)
    except TypeError as error:
        raise ValueError(f"training.optimizer_options: {error}") from None


class DecayToBase:
    """Before a step of learning rate r, the values v become v - r strength (v - base); decoupled, as AdamW's decay.

    It acts on the optimizer's float32 values, whatever the optimizer, and never enters gradients or moments.
    """

    def __init__(self, delta: SparseDelta, strength: float) -> None:
        self._delta, self._strength = delta, strength
        self._entries: list[Tensor] = []
        self._base: list[Tensor] = []

    def apply(self, engine: Engine, learning_rate: float) -> None:
        """To be called before each optimizer step."""
        if self._entries is not self._delta.indices:  # the first step, or the mask has changed
            self._entries, self._base = self._delta.indices, self._delta.base()
        engine.state(self._delta.parameters).pull(self._base, learning_rate * self._strength)


def decay_to_base(method: MaskMethod, delta: SparseDelta, training: TrainingSpec) -> DecayToBase | None:
    """What a mask method's run asks for: the decay of its weights, where that goes to the base, and of its delta."""
    strength = method.delta_decay if isinstance(method, RefreshedMethod) else 0.0
    strength += training.weight_decay if training.decay_to == "base" else 0.0
    return DecayToBase(delta, strength) if strength else None
