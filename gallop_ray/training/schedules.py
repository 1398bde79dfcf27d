"""The learning rate of each step: linear warmup, then a schedule."""

import math
from collections.abc import Callable
from functools import cache

import torch

from gallop_ray.spec.plugins import is_reference, load_object
from gallop_ray.spec.training import TrainingSpec

Factor = Callable[[int, int], float]
"""From a step after the warmup (0, 1, ...) and the number of such steps, the factor on the learning rate."""

_OWN: dict[str, Factor] = {
    "constant": lambda step, steps: 1.0,
    "linear": lambda step, steps: 1 - step / steps,
    "cosine": lambda step, steps: 0.5 * (1 + math.cos(math.pi * step / steps)),
}


def learning_rate(training: TrainingSpec, step: int, steps: int) -> float:
    """The learning rate of step 0, 1, ... of `steps`. Raises ValueError for a schedule that gives no usable number."""
    warmup = round(training.warmup_ratio * steps)
    if step < warmup:  # + 1: at a rate of 0 the first step would be wasted
        return training.learning_rate * (step + 1) / (warmup + 1)
    left = max(1, steps - warmup)
    factor = schedule_of(training.schedule, left, warmup)(step - warmup, left)
    if not (isinstance(factor, int | float) and math.isfinite(factor) and factor >= 0):
        raise ValueError(f"training.schedule: {training.schedule} gives {factor!r} at step {step} of {steps}")
    return training.learning_rate * factor


@cache
def schedule_of(name: str, steps: int, warmup: int = 0) -> Factor:
    """A schedule by name, for `steps` steps after those of the warmup.

    Raises ValueError for a `module:function` that cannot be loaded.
    """
    if name in _OWN:
        return _OWN[name]
    if not is_reference(name):
        return _of_transformers(name, steps, warmup)
    found = load_object(name)
    if not callable(found):
        raise ValueError(f"training.schedule: {name} is not a function of a step and the number of steps")
    factor: Factor = found
    return factor


def _of_transformers(name: str, steps: int, warmup: int) -> Factor:
    """The factor of one of transformers' schedules, which it makes for an optimizer only.

    Its warmup counts, though its steps are ours: inverse_sqrt takes its time scale from it.
    """
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler: torch.optim.lr_scheduler.LambdaLR = get_scheduler(name, optimizer, warmup, warmup + steps)
    (factor,) = scheduler.lr_lambdas
    return lambda step, _: float(factor(step + warmup))
