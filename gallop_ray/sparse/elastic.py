"""Elastic weight consolidation (EWC, arXiv 1612.00796): weights that other tasks need are held near the base."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.fisher import OwnedFisher
from gallop_ray.sparse.optimizers import EntryState, Handle, StateOf, Stepped


class ElasticPenalty:
    """What is minimised is the loss + strength / 2 sum F (v - base)^2, F being the Fisher information of v.

    The penalty's gradient, strength F (v - base), is exact: of the optimizer's float32 values, and added where the
    optimizer steps them. That is behind the clipping, so that one limit on the gradient's norm does the same to the
    loss whatever the strength.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], fisher: Sequence[Tensor], base: Sequence[Tensor], strength: float
    ) -> None:
        """fisher, base: flat, in the parameters' order; under ZeRO-3 complete, or what this rank stores."""
        self._parameters, self._strength = list(parameters), strength
        self._fisher, self._base = list(fisher), list(base)
        self._handle: Handle | None = None
        self._parts: list[Stepped] = []

    def apply(self, state_of: StateOf, learning_rate: float) -> None:
        """Call before each optimizer step: the first call puts the penalty in its place."""
        if self._handle is None:
            self._act_on(state_of(self._parameters))

    def _act_on(self, state: EntryState) -> None:
        """Add the gradient to each step from now on, of the part of the entries that this rank steps."""
        if self._handle is not None:
            self._handle.remove()
        # Copied: at ZeRO 1 and 2 a rank steps a part of vectors that are whole here, and are not needed again.
        self._parts = [
            Stepped(tensor, at, [vector.to(tensor.device, torch.float32, copy=True) for vector in of])
            for tensor, at, of in state.stepped(self._fisher, self._base)
        ]
        self._fisher, self._base = [], []
        self._handle = state.before_step(self._add)

    @torch.no_grad()
    def _add(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        now = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for part in self._parts:
            tensor, (fisher, base) = part.tensor, part.of
            # DeepSpeed steps its tensors one by one where it has several; each has its turn once.
            if id(tensor) in now and tensor.grad is not None:
                change = tensor.detach().view(-1)[part.at] - base
                tensor.grad.view(-1)[part.at].add_(fisher * change, alpha=self._strength)


class ElasticDelta(ElasticPenalty):
    """The same for the chosen entries of a delta, also where a mask moves to others while it is trained."""

    def __init__(self, delta: SparseDelta, fisher: OwnedFisher, strength: float) -> None:
        super().__init__(delta.parameters, [], [], strength)
        self._delta, self._whole = delta, fisher
        self._entries: list[Tensor] = []

    def apply(self, state_of: StateOf, learning_rate: float) -> None:
        """Call before each optimizer step. Collective."""
        delta = self._delta
        if self._entries is delta.indices:  # by identity: a refresh replaces the list
            return
        self._entries = delta.indices
        names = [place.name for place in delta.places]
        found = self._whole.at(dict(zip(names, delta.indices, strict=True)))
        self._fisher, self._base = [found[name] for name in names], delta.base()
        self._act_on(state_of(delta.parameters))
