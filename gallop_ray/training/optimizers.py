"""Optimizers by name, and weight decay to the base values."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gallop_ray.methods import MaskMethod, RefreshedMethod
from gallop_ray.methods.full import FullAttachment
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.elastic import ElasticPenalty
from gallop_ray.sparse.optimizers import Decays, DecayToBase, DecayToStart, EntryAdamW
from gallop_ray.sparse.weights import gather
from gallop_ray.spec.configuration import trainings
from gallop_ray.spec.method import MaskMethodSpec, MethodSpec
from gallop_ray.spec.other_methods import DoraSpec, LoraSpec
from gallop_ray.spec.plugins import is_reference, load_object
from gallop_ray.spec.problems import Path, did_you_mean, first_line
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.training import TrainingSpec
from gallop_ray.training.schedules import schedule_of

_MASK = "the entries of a mask"


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
        ours = "adamw with steps that each entry counts for itself, as this method's new entries need,"
        said = str(error).replace(f"{EntryAdamW.__name__}.__init__()", ours)
        raise ValueError(f"training.optimizer_options: {said}") from None


def try_optimizer(
    training: TrainingSpec, shape: Sequence[int] = (4,), entry_ages: bool = False, vector: str = _MASK
) -> None:
    """A step of the optimizer over a parameter of this shape: the entries of a mask are a vector.

    vector: what a parameter of one dimension stands for. Raises ValueError for an optimizer that cannot be made, that
    wants what training does not give (a closure, sparse gradients, matrices), that changes nothing, or whose state is
    neither one number per entry nor one for all.
    """
    tried = nn.Parameter(torch.zeros(*shape))
    tried.grad = torch.ones_like(tried)
    name, reason = training.optimizer, "it leaves a parameter that has a gradient as it was"
    try:
        made = make_optimizer(training, [tried], entry_ages)
        made.step()
    except Exception as error:  # torch's own, and whatever a user's class raises
        if str(error).startswith("training."):
            raise
        reason = first_line(error) or type(error).__name__
    else:
        if bool((tried != 0).all()) and bool(tried.isfinite().all()):
            _refuse_other_shapes(name, made.state[tried], tried.shape)
            return
    what = f"{vector}, a vector" if len(shape) == 1 else "a matrix"
    raise ValueError(f"training.optimizer: {name} cannot train {what}: {reason}; name another, such as adamw")


def _refuse_other_shapes(name: str, state: Mapping[str, Any], shape: torch.Size) -> None:
    for key, value in state.items():
        if isinstance(value, Tensor) and value.ndim and value.shape != shape:
            raise ValueError(
                f"training.optimizer: {name} keeps {key} of shape {tuple(value.shape)} for a matrix of {tuple(shape)}, "
                "which checkpoints cannot hold; use deepspeed.zero_stage 1, or another, such as adamw"
            )


def goes_by_tensors(training: TrainingSpec) -> bool:
    """Whether a step depends on which entries are one tensor, so that results depend on how ZeRO cuts them.

    From stage 1 on DeepSpeed steps one vector of all parameters, of which each worker has a part.
    """
    values, gradients = torch.tensor([1.0, -2.0, 30.0, 40.0]), torch.tensor([0.1, 0.2, -3.0, 50.0])
    found: list[Tensor] = []
    for sizes in ([2, 2], [4]):
        parameters = [nn.Parameter(part.clone()) for part in values.split(sizes)]
        for parameter, gradient in zip(parameters, gradients.split(sizes), strict=True):
            parameter.grad = gradient.clone()
        make_optimizer(training.model_copy(update={"learning_rate": 0.1}), parameters).step()
        found.append(torch.cat([parameter.detach() for parameter in parameters]))
    return not torch.allclose(found[0], found[1])


def _tried(sweep: Sweep, spec: MethodSpec) -> list[tuple[tuple[int, ...], str]]:
    """Shapes like those that a method's optimizer steps, and what one of a single dimension stands for."""
    if isinstance(spec, MaskMethodSpec):
        return [((4,), _MASK)]
    if sweep.deepspeed.zero_stage > 0 or sweep.model.dtype == "bfloat16":  # which needs ZeRO, see engine.zero_stage
        return [((4,), "all parameters, which ZeRO makes one of")]
    matrices = isinstance(spec, LoraSpec) and not isinstance(spec, DoraSpec)
    return [((4, 4), "")] if matrices else [((4, 4), ""), ((4,), "norms, biases and the like")]


def try_trainings(sweep: Sweep) -> None:
    """Every optimizer and schedule that a configuration may have, tried for what its method trains.

    Raises ValueError for the first that cannot be.
    """
    for spec in sweep.methods:
        for training in trainings(sweep, spec) if spec.trains else ():
            schedule_of(training.schedule, 1)
            for shape, vector in _tried(sweep, spec):
                try_optimizer(training, shape, spec.entry_ages, vector)


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


def without_decay(training: TrainingSpec) -> TrainingSpec:
    """The options without the weight decay that pulls to the base, which is no optimizer's."""
    return training.model_copy(update={"weight_decay": 0.0}) if training.decay_to == "base" else training


def decay_to_start(
    parameters: Sequence[nn.Parameter], start: Sequence[Tensor], training: TrainingSpec
) -> DecayToStart | None:
    """The decay of parameters towards what they were, flat, before the training; None without one to the base."""
    wanted = training.decay_to == "base" and training.weight_decay
    return DecayToStart(parameters, start, training.weight_decay) if wanted else None


def pull_to_base(attachment: FullAttachment, training: TrainingSpec, fisher: Sequence[Tensor] | None) -> Decays | None:
    """What pulls all weights to the base: the decay, and with `fisher` the penalty of `training.ewc`; or None."""
    parameters, base = attachment.parameters, attachment.base()
    penalty = None if fisher is None else ElasticPenalty(parameters, fisher, base, training.ewc)
    return Decays.of(decay_to_start(parameters, base, training), penalty)


def decay_to_now(parameters: Sequence[nn.Parameter], training: TrainingSpec) -> DecayToStart | None:
    """As decay_to_start, towards what added parameters are now: values at which they do nothing. Collective."""
    if training.decay_to == "zero" or not training.weight_decay:
        return None
    return decay_to_start(parameters, [gather(each).detach().clone().view(-1) for each in parameters], training)


def decay_to_base(method: MaskMethod, delta: SparseDelta, training: TrainingSpec) -> DecayToBase | None:
    """The decay towards the base of a mask method's run, from weight_decay and the method's delta_decay; or None."""
    strength = method.delta_decay if isinstance(method, RefreshedMethod) else 0.0
    strength += training.weight_decay if training.decay_to == "base" else 0.0
    return DecayToBase(delta, strength) if strength else None
