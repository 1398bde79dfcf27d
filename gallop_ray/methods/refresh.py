"""Masks that are reselected during training: the collective side of a RefreshedMethod."""

from collections.abc import Mapping
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from gallop_ray.errors import Diverged
from gallop_ray.methods.contract import MatrixState, RefreshedMethod
from gallop_ray.sparse.candidates import parts
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.optimizers import MASTER, StateOf, moved
from gallop_ray.sparse.scoring import generator_of
from gallop_ray.sparse.sm3 import Accumulators
from gallop_ray.sparse.weights import all_ranks, gather, rank, world_size


class Refresher:
    """Collects what a method needs between selections, and moves delta and optimizer to the new entries."""

    def __init__(self, method: RefreshedMethod, delta: SparseDelta, seed: int) -> None:
        self._method, self._delta, self._seed = method, delta, seed
        self._owned = OwnedGradients(delta.places)
        self._accumulators = Accumulators(delta.places) if method.needs_accumulators else None
        self.accumulating = False
        """Whether gradients have been summed that the next selection still needs."""

    def listen(self, step: int, steps: int) -> None:
        """Call before the backward passes of optimizer step `step` (1, 2, ...)."""
        accumulates = self._method.accumulates_in(step, steps)
        for m, layer in enumerate(self._delta.layers):
            layer.take = partial(self._owned.add, m) if accumulates else None
            layer.take_chosen = None if self._accumulators is None else partial(self._accumulators.add, m)
        self.accumulating |= accumulates

    def end_step(self) -> None:
        """Call after every optimizer step, before refresh(). Collective."""
        if self._accumulators is not None:
            self._accumulators.end_step(self._delta.indices)

    def kept(self) -> dict[str, Tensor]:
        """What the next selections depend on besides the optimizer's state, unless `accumulating`."""
        return {} if self._accumulators is None else self._accumulators.read()

    def recall(self, kept: Mapping[str, Tensor]) -> None:
        """Restore what kept() gave."""
        if self._accumulators is not None:
            self._accumulators.write(kept)

    def refresh(self, step: int, steps: int, state_of: StateOf) -> bool:
        """Reselect if the method wants to after this step; whether it did. Collective.

        Raises Diverged, on every rank, where trained values or the gradients to select by are not finite.
        """
        if not self._method.refreshes_after(step, steps):
            return False
        delta, old = self._delta, list(self._delta.indices)
        optimizer = state_of(delta.parameters)
        state, shared = optimizer.read()
        self._check_finite(state[MASTER])
        # From the float32 masters: many bfloat16 weights have been rounded back to where they were.
        changes = [now.to(base.device) - base.float() for now, base in zip(state[MASTER], delta.base(), strict=True)]
        indices = [self._choose(m, change, step, steps) for m, change in enumerate(changes)]
        present = delta.move(indices, self._method.restores_dropped)
        optimizer.write(moved(state, old, indices, present), shared)
        self.accumulating = False
        return True

    def _check_finite(self, masters: list[Tensor]) -> None:
        """Checked together: a selection among NaNs would fail on the owning rank only, and the others would wait."""
        seen = [*masters, *self._owned.sums.values()]
        finite = self._accumulators is None or self._accumulators.finite()
        if not all_ranks(finite and all(bool(values.isfinite().all()) for values in seen)):
            raise Diverged("trained values or gradients contain NaN or inf; a lower learning rate may help")

    def _choose(self, m: int, change: Tensor, step: int, steps: int) -> Tensor:
        """The new entries of one weight, from its owner. change: float32 (k,), trained minus base."""
        place, old = self._delta.places[m], self._delta.indices[m]
        # Gathered on every rank, though the owner alone chooses: gathering is collective.
        weight, owner = gather(place.weight).detach(), self._owned.owners[m]
        new = torch.empty_like(old)
        if rank() == owner:
            gradient = self._owned.take(m) if m in self._owned.sums else None
            for c in parts(place):
                ends = torch.tensor([c.offset, c.offset + c.numel], dtype=old.dtype, device=old.device)
                of_part = slice(*torch.searchsorted(old, ends).tolist())
                if old[of_part].numel():
                    before = MatrixState(
                        c.of(weight),
                        None if gradient is None else c.of(gradient),
                        old[of_part] - c.offset,
                        change[of_part],
                        step,
                        steps,
                        generator_of(self._seed, step, c.name),
                        None if self._accumulators is None else self._accumulators.of(c.name),
                    )
                    new[of_part] = self._method.refresh(before).to(old) + c.offset
        if world_size() > 1:
            dist.broadcast(new, src=owner)
        return new
