"""Optimizers of masked entries: their state per entry, moving it to other entries, and an AdamW for changing masks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.mask import contained, positions

MASTER = "master"
"""The key of the float32 values themselves."""

State = dict[str, list[Tensor]]
"""By key, one complete float32 vector (k_m,) for each trained parameter, on every rank."""


class Stepped(NamedTuple):
    """What an optimizer steps of one parameter: some tensor's entries `at`, and the same entries of other vectors."""

    tensor: Tensor
    at: slice
    of: list[Tensor]


class Handle(Protocol):
    """Of a hook."""

    def remove(self) -> None:
        """Remove the hook."""
        ...


class EntryState(Protocol):
    """Reads and writes the state of an optimizer, entry by entry. Collective where the state is split over ranks."""

    def read(self) -> tuple[State, dict[str, Tensor]]:
        """The vectors by key, and what the optimizer keeps once for all entries (its step)."""
        ...

    def write(self, state: State, shared: Mapping[str, Tensor]) -> None:
        """Replace the optimizer's vectors, and write the values into the parameters."""
        ...

    def pull(self, targets: Sequence[Tensor], share: float) -> None:
        """Move the float32 values by `share` of the way to `targets`, complete vectors (k_m,)."""
        ...

    def stepped(self, *vectors: Sequence[Tensor]) -> Iterator[Stepped]:
        """What this rank steps of each parameter, with that part of complete vectors (k_m,); not collective."""
        ...

    def before_step(self, hook: Callable[..., None]) -> Handle:
        """Call `hook` with the optimizer, and more, before it steps: gradients are clipped and summed over ranks."""
        ...


class Decay(Protocol):
    """A pull towards the base beside the optimizer's own weight decay."""

    def apply(self, state_of: "StateOf", learning_rate: float) -> None:
        """Call before each optimizer step."""
        ...


StateOf = Callable[[Sequence[nn.Parameter]], EntryState]
"""Gives an optimizer's state of parameters that it trains."""


class PlainState:
    """The state of a plain torch optimizer, which keeps it by parameter.

    Raises ValueError where the optimizer does not train a parameter, and, in `read`, where it keeps state that is
    neither one number per entry nor one for all: factored or quantised moments cannot follow a mask.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not all(id(p) in held for p in parameters):
            raise ValueError("the optimizer does not train the adapter: make it of adapter.parameters()")
        self._optimizer, self._parameters = optimizer, list(parameters)

    def read(self) -> tuple[State, dict[str, Tensor]]:
        """See EntryState.read; zeros for a parameter that has not been stepped yet."""
        kept: list[dict[str, Any]] = [self._optimizer.state.get(p, {}) for p in self._parameters]
        known = next((state for state in kept if state), {})
        for p, state in zip(self._parameters, kept, strict=True):
            self._refuse_other_shapes(p, state)
        keys = [key for key, value in known.items() if isinstance(value, Tensor) and value.ndim]
        state = {MASTER: [p.detach().float().clone() for p in self._parameters]}
        for key in keys:
            state[key] = [
                s[key].clone() if s else torch.zeros_like(p) for p, s in zip(self._parameters, kept, strict=True)
            ]
        shared = {k: torch.as_tensor(v).clone() for k, v in known.items() if k not in keys and v is not None}
        return state, shared

    @torch.no_grad()
    def write(self, state: State, shared: Mapping[str, Tensor]) -> None:
        """See EntryState.write; what is kept once for all entries stays unchanged."""
        for m, parameter in enumerate(self._parameters):
            parameter.copy_(state[MASTER][m])
            kept = self._optimizer.state.get(parameter, {})
            for key in kept.keys() & state.keys():
                kept[key].copy_(state[key][m])

    @torch.no_grad()
    def pull(self, targets: Sequence[Tensor], share: float) -> None:
        """See EntryState.pull."""
        for parameter, target in zip(self._parameters, targets, strict=True):
            parameter.lerp_(target.to(parameter), share)

    def stepped(self, *vectors: Sequence[Tensor]) -> Iterator[Stepped]:
        """See EntryState.stepped."""
        for m, parameter in enumerate(self._parameters):
            yield Stepped(parameter, slice(0, parameter.numel()), [each[m] for each in vectors])

    def before_step(self, hook: Callable[..., None]) -> Handle:
        """See EntryState.before_step."""
        return self._optimizer.register_step_pre_hook(hook)

    def _refuse_other_shapes(self, parameter: nn.Parameter, state: Mapping[str, Any]) -> None:
        for key, value in state.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(
                    f"{type(self._optimizer).__name__} keeps {key!r} of shape {tuple(value.shape)} for "
                    f"{parameter.numel()} entries, which cannot follow a mask that changes; use AdamW or SGD"
                )


def moved(state: State, old: list[Tensor], new: list[Tensor], present: list[Tensor]) -> State:
    """The optimizer's vectors for the entries `new` instead of `old`, matrix by matrix.

    Entries that stay keep their float32 value and their moments; new ones start at their present weight with moments 0,
    and age 0 where the optimizer counts steps per entry.
    """
    answer: State = {}
    for key, vectors in state.items():
        fresh = present if key == MASTER else [torch.zeros(n.numel()) for n in new]
        answer[key] = [_moved(vector, o, n, f) for vector, o, n, f in zip(vectors, old, new, fresh, strict=True)]
    return answer


def _moved(vector: Tensor, old: Tensor, new: Tensor, fresh: Tensor) -> Tensor:
    values = fresh.to(vector.device, torch.float32, copy=True)
    stays = contained(new, old)
    values[stays] = vector[positions(old, new[stays])]
    return values


class DecayToBase:
    """Before a step with learning rate r, the values v become v - r strength (v - base); decoupled, as in AdamW.

    It acts on the optimizer's float32 values, whatever the optimizer, and never enters gradients or moments.
    """

    def __init__(self, delta: SparseDelta, strength: float) -> None:
        self._delta, self._strength = delta, strength
        self._entries: list[Tensor] = []
        self._base: list[Tensor] = []

    def apply(self, state_of: StateOf, learning_rate: float) -> None:
        """Call before each optimizer step."""
        # By identity: a refresh replaces the list, and comparing indices at every step would cost.
        if self._entries is not self._delta.indices:
            self._entries, self._base = self._delta.indices, self._delta.base()
        state_of(self._delta.parameters).pull(self._base, learning_rate * self._strength)


class DecayToStart:
    """As DecayToBase, of parameters that stay the same ones: v becomes v - r strength (v - start).

    start: flat, in the parameters' order; under ZeRO-3 complete, or what this rank stores.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], start: Sequence[Tensor], strength: float) -> None:
        self._parameters, self._start, self._strength = list(parameters), list(start), strength

    def apply(self, state_of: StateOf, learning_rate: float) -> None:
        """Call before each optimizer step."""
        state_of(self._parameters).pull(self._start, learning_rate * self._strength)


class Decays:
    """Several at once."""

    def __init__(self, parts: Sequence[Decay]) -> None:
        self._parts = list(parts)

    @classmethod
    def of(cls, *parts: Decay | None) -> "Decays | None":
        """Those that are there; None where none is."""
        there = [each for each in parts if each is not None]
        return cls(there) if there else None

    def apply(self, state_of: StateOf, learning_rate: float) -> None:
        """Call before each optimizer step."""
        for each in self._parts:
            each.apply(state_of, learning_rate)


class EntryAdamW(torch.optim.Optimizer):
    """AdamW (arXiv 1711.05101) in which every entry counts its own steps, in a vector `age` beside its moments.

    An entry whose moments and age are 0 starts as all entries did at the first step. With one count for all, the bias
    correction would treat its young second moment as an old one, and it would move by several learning rates per step.
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
        """Step every parameter that has a gradient; closures are not called."""
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
