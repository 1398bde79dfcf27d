"""SpIEL-AG: drops the entries that changed least, grows those with the largest gradient sums (arXiv 2401.16405)."""

import torch
from torch import Tensor

from gallop_ray.methods.contract import MatrixState, RefreshedMethod
from gallop_ray.methods.random import uniform
from gallop_ray.sparse.topk import EXCLUDED, largest


class Spiel(RefreshedMethod):
    """Random entries for the first `accumulate` steps, then those of each matrix with the largest |sum of gradients|.

    Every N steps after that, the n entries with the smallest |delta| are dropped and return to the base, and the n with
    the largest |sum of gradients| over the last `accumulate` steps, of all that were not kept, are trained instead. A
    dropped entry that is chosen again just stays. n falls linearly from initial_rate x k to 0 at the end; the first
    time it is k.
    """

    restores_dropped = True

    @property
    def delta_decay(self) -> float:  # type: ignore[override]
        """From the options."""
        return float(self.spec.delta_decay)

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """Uniform[0, 1): the first entries are drawn at random."""
        return uniform(weight, generator)

    def refreshes_after(self, step: int, steps: int) -> bool:
        """After `accumulate` steps, and every `refresh_every` steps from then on."""
        first, every = int(self.spec.accumulate), int(self.spec.refresh_every)
        return first <= step < steps and (step - first) % every == 0

    def accumulates_in(self, step: int, steps: int) -> bool:
        """In the first `accumulate` of every `refresh_every` steps, unless the run ends before the selection."""
        begun = step - (step - 1) % int(self.spec.refresh_every)  # the step in which the last such phase began
        choice = begun + int(self.spec.accumulate) - 1
        return step <= choice < steps

    def refresh(self, state: MatrixState) -> Tensor:
        """Keep the k - n entries with the largest |delta|; grow n by |sum of gradients|."""
        assert state.gradient is not None
        k = state.indices.numel()
        given_up = self._given_up(state, k)
        if not given_up:
            return state.indices
        growth, kept = state.gradient.abs().view(-1), state.indices.new_empty(0).long()
        if given_up < k:
            kept = state.indices[largest(state.delta.abs(), k - given_up)].long()
        growth[kept] = EXCLUDED
        return torch.cat([kept, largest(growth, given_up)]).sort().values

    def _given_up(self, state: MatrixState, k: int) -> int:
        first = state.step == self.spec.accumulate
        return k if first else int(self.spec.initial_rate * (1 - state.step / state.steps) * k)
