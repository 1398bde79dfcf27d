"""Optimizers by name, and weight decay to the base values."""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from gallop_ray.methods import MaskMethod, RefreshedMethod
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.optimizers import DecayToBase, EntryAdamW
from gallop_ray.spec.configuration import trainings
from gallop_ray.spec.method import MaskMethodSpec
from gallop_ray.spec.plugins import is_reference, load_object
from gallop_ray.spec.problems import Path, did_you_mean, first_line
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.training import TrainingSpec
from gallop_ray.training.schedules import schedule_of


def make_optimizer(
    training: TrainingSpec, parameters: Iterable[nn.Parameter], entry_ages: bool = False
) -> torch.optim.Optimizer:
    """The optimizer that the sweep asks for, with its learning rate and weight decay.

    entry_ages: for changing masks, whose new entries count their own steps; only AdamW has such a variant. Raises
    ValueError for a name or an option that torch does not know, and for weight decay that the class does not take.
    """
    kind = optimizer_class(training.optimizer)
    if entry_ages and kind is torch.optim.AdamW:
        kind = EntryAdamW
    options = {"lr": training.learning_rate, "weight_decay": training.weight_decay, **training.optimizer_options}
    if not training.weight_decay and not _takes(kind, "weight_decay"):
        del options["weight_decay"]  # the sweep's default 0, which the user has not set
    try:
        made: torch.optim.Optimizer = kind(parameters, **options)
        return made
    except TypeError as error:
        raise ValueError(f"training.optimizer_options: {error}") from None


def try_optimizer(training: TrainingSpec, shape: Sequence[int] = (4,), entry_ages: bool = False) -> None:
    """A step of the optimizer over a parameter of this shape: the entries of a mask are a vector.

    Raises ValueError for one that cannot be made, that wants what training does not give (a closure, sparse
    gradients, matrices), or that changes nothing.
    """
    tried = nn.Parameter(torch.zeros(*shape))
    tried.grad = torch.ones_like(tried)
    name, reason = training.optimizer, "it leaves a parameter that has a gradient as it was"
    try:
        make_optimizer(training, [tried], entry_ages).step()
    except Exception as error:  # torch's own, and whatever a user's class raises
        if str(error).startswith("training."):
            raise
        reason = first_line(error) or type(error).__name__
    else:
        if bool((tried != 0).all()) and bool(tried.isfinite().all()):
            return
    what = "the entries of a mask, a vector" if len(shape) == 1 else "a matrix"
    raise ValueError(f"training.optimizer: {name} cannot train {what}: {reason}; name another, such as adamw")


def try_trainings(sweep: Sweep) -> None:
    """Every optimizer and schedule that a configuration may have, tried for what its method trains.

    Raises ValueError for the first that cannot be.
    """
    for spec in sweep.methods:
        for training in trainings(sweep, spec) if spec.trains else ():
            schedule_of(training.schedule, 1)
            try_optimizer(training, (4,) if isinstance(spec, MaskMethodSpec) else (4, 4), spec.entry_ages)


def refused_training(sweep: Sweep) -> Iterator[tuple[Path, str]]:
    """The problem with an optimizer, its options or a schedule, if any: path in the sweep, and why."""
    try:
        try_trainings(sweep)
    except ValueError as error:
        fields = ("optimizer_options", "optimizer", "schedule")
        field = next((each for each in fields if str(error).startswith(f"training.{each}: ")), "schedule")
        searched = (key for key in sweep.search.space if key.endswith(f"training.{field}"))
        key = next(searched, None)
        path = ("training", field) if key is None else ("search", "space", key)
        yield path, f"is not allowed; {str(error).removeprefix(f'training.{field}: ')}"


def optimizer_class(name: str) -> Any:
    """The class for a name in torch.optim, whatever its case, or for `module:Class`. Raises ValueError."""
    if is_reference(name):
        found = load_object(name)
        if not isinstance(found, type) or not issubclass(found, torch.optim.Optimizer):
            raise ValueError(f"training.optimizer: {name} is not a torch.optim.Optimizer")
        return found
    every = (each for each in vars(torch.optim).values() if isinstance(each, type))
    known = {c.__name__.lower(): c for c in every if issubclass(c, torch.optim.Optimizer)}
    del known["optimizer"]  # the base class of all of them
    if name.lower() not in known:
        hint = did_you_mean(name.lower(), known) or f"; it has {', '.join(sorted(known))}"
        raise ValueError(f"training.optimizer: torch has no {name!r}{hint}")
    return known[name.lower()]


def _takes(kind: Any, argument: str) -> bool:
    parameters = inspect.signature(kind).parameters
    return argument in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def decay_to_base(method: MaskMethod, delta: SparseDelta, training: TrainingSpec) -> DecayToBase | None:
    """The decay towards the base of a mask method's run, from weight_decay and the method's delta_decay; or None."""
    strength = method.delta_decay if isinstance(method, RefreshedMethod) else 0.0
    strength += training.weight_decay if training.decay_to == "base" else 0.0
    return DecayToBase(delta, strength) if strength else None
