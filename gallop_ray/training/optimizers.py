"""Optimizers by name."""

from collections.abc import Iterable

import torch
from torch import nn

from gallop_ray.spec.schema import TrainingSpec


def make_optimizer(training: TrainingSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that the sweep asks for, with its learning rate and weight decay.

    Raises ValueError for a name or an option that torch does not know.
    """
    classes = {name.lower(): c for name, c in vars(torch.optim).items() if isinstance(c, type)}
    kind = classes.get(training.optimizer.lower())
    if kind is None or kind is torch.optim.Optimizer or not issubclass(kind, torch.optim.Optimizer):
        known = sorted(name for name, c in classes.items() if issubclass(c, torch.optim.Optimizer))
        raise ValueError(f"training.optimizer: torch has no {training.optimizer!r}; it has {', '.join(known)}")
    options = {"lr": training.learning_rate, "weight_decay": training.weight_decay, **training.optimizer_options}
    try:
        return kind(parameters, **options)
    except TypeError as error:
        raise ValueError(f"training.optimizer_options: {error}") from None
