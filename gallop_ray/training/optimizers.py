"""Optimizers by name, and weight decay to the base values."""

from collections.abc import Iterable

import torch
from torch import nn

from gallop_ray.methods import MaskMethod, RefreshedMethod
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.optimizers import DecayToBase, EntryAdamW
from gallop_ray.spec.schema import TrainingSpec


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


def decay_to_base(method: MaskMethod, delta: SparseDelta, training: TrainingSpec) -> DecayToBase | None:
    """What a mask method's run asks for: the decay of its weights, where that goes to the base, and of its delta."""
    strength = method.delta_decay if isinstance(method, RefreshedMethod) else 0.0
    strength += training.weight_decay if training.decay_to == "base" else 0.0
    return DecayToBase(delta, strength) if strength else None
