"""Masks that are reselected while any torch optimizer trains them: LIFT's, SpIEL's and SaRA's."""

from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from gallop_ray.library.following import write_values
from gallop_ray.methods.contract import RefreshedMethod
from gallop_ray.methods.refresh import Refresher
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.optimizers import DecayToBase, PlainState, StateOf

_ONE_COUNT = (torch.optim.Adam, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam)
"""Optimizers whose bias correction uses one step count for all entries of a parameter."""


class _Handle(Protocol):
    def remove(self) -> None: ...


class MaskRefresh:
    """Refreshes a mask by hooks of the optimizer that trains its values.

    Until one is bound, a backward pass raises ValueError: without refreshes it would train another method.
    """

    def __init__(self, method: RefreshedMethod, delta: SparseDelta, seed: int) -> None:
        self._method, self._delta = method, delta
        self._refresher = Refresher(method, delta, seed)
        self._decay = DecayToBase(delta, method.delta_decay) if method.delta_decay else None
        self._step = self._steps = 0
        self._state_of: StateOf
        self._handles: list[_Handle] = [values.register_hook(self._refuse_unbound) for values in delta.parameters]

    def bind(self, optimizer: torch.optim.Optimizer, steps: int, step: int) -> None:
        """Refresh after this optimizer's steps from now on; arguments and errors: SparseAdapter.refresh_with."""
        while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
            optimizer = inner  # Accelerate's wrapper skips steps that overflowed, which must not count
        if self._method.spec.entry_ages and isinstance(optimizer, _ONE_COUNT):
            raise ValueError(
                f"{type(optimizer).__name__} counts steps for all entries at once, so that entries which "
                f"{self._method.spec.type} chooses later would move by several learning rates a step; use "
                "gallop_ray.sparse.EntryAdamW(adapter.parameters(), lr=...)"
            )
        PlainState(optimizer, self._delta.parameters)  # for its check that the optimizer trains these
        self.release()
        self._state_of, self._step, self._steps = partial(PlainState, optimizer), step, steps
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        self._refresher.listen(step + 1, steps)

    def release(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._decay is not None:
            first = self._delta.parameters[0]
            rates = (g["lr"] for g in optimizer.param_groups if any(p is first for p in g["params"]))
            self._decay.apply(self._state_of, float(next(rates)))

    def _after_step(self, *_: Any) -> None:
        self._step += 1
        self._refresher.end_step()
        if self._method.refreshes_after(self._step, self._steps):
            # The layers' own hooks write before a forward pass only, and the weights are looked at now.
            for layer in self._delta.layers:
                write_values(layer)
            self._refresher.refresh(self._step, self._steps, self._state_of)
        self._refresher.listen(self._step + 1, self._steps)

    def _refuse_unbound(self, _: Tensor) -> None:
        raise ValueError(
            f"{self._method.spec.type} chooses its mask again while it trains: call "
            "adapter.refresh_with(optimizer, steps) before, or give Trainer callbacks=[RefreshCallback(adapter)]"
        )
