"""SpIEL-AG: sparse fine-tuning that drops what changed least and grows where gradients gather (arXiv 2401.16405)."""

import torch
from torch import Tensor

from gallop_ray.methods.contract import MatrixState, RefreshedMethod
from gallop_ray.methods.random import uniform
from gallop_ray.sparse.topk import EXCLUDED, largest


class Spiel(RefreshedMethod):
    """Random entries at first; every N steps, of each matrix, the n with the smallest |delta| go back to the base.

    In their place come the n entries, of those not trained, with the largest |sum of the gradients| of the last
    `accumulate` steps. n falls linearly from initial_rate x k to none at the end.
    """

    restores_dropped = True

    @property
    def delta_decay(self) -> float:  # type: ignore[override]
        return float(self.spec.delta_decay)

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        return uniform(weight, generator)

    def refreshes_after(self, step: int, steps: int) -> bool:
        every: int = self.spec.refresh_every
        return step % every == 0 and step < steps

    def accumulates_in(self, step: int, steps: int) -> bool:
        every: int = self.spec.refresh_every
        refresh, accumulate = -(-step // every) * every, int(self.spec.accumulate)
        return refresh < steps and step > refresh - accumulate

    def refresh(self, state: MatrixState) -> Tensor:
        assert state.gradient is not None
        k = state.indices.numel()
        growth = state.gradient.abs().view(-1)
        growth[state.indices.long()] = EXCLUDED
        wanted = int(self.spec.initial_rate * (1 - state.step / state.steps) * k)
        replaced = min(wanted, growth.numel() - k)
        if not replaced:
            return state.indices
        kept = state.indices[largest(state.delta.abs(), k - replaced)].long()
        return torch.cat([kept, largest(growth, replaced)]).sort().values
