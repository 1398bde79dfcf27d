"""SpIEL: drops the entries that changed least, grows those whose gradients are, or probably are, large."""

import torch
from torch import Tensor

from gallop_ray.methods.contract import MatrixState, RefreshedMethod
from gallop_ray.methods.random import uniform
from gallop_ray.sparse.topk import EXCLUDED, largest


class Spiel(RefreshedMethod):
    """Random entries for the first `accumulate` steps, then others of each matrix, again every N steps (2401.16405).

    The n entries with the smallest |delta| are dropped and return to the base; n falls linearly from initial_rate x k
    to 0 at the end, and is k the first time. With variant `ag` the n with the largest |sum of gradients| over the last
    `accumulate` steps, of all that were not kept, are trained instead; a dropped entry that is chosen again just stays.
    With `ma` these are, of all that were not trained before, the n with the largest product of their row's and their
    column's SM3 accumulator.
    """

    restores_dropped = True

    @property
    def delta_decay(self) -> float:  # type: ignore[override]
        """From the options."""
        return float(self.spec.delta_decay)

    @property
    def needs_accumulators(self) -> bool:  # type: ignore[override]
        """From the options."""
        return bool(self.spec.variant == "ma")

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """Uniform[0, 1): the first entries are drawn at random."""
        return uniform(weight, generator)

    def refreshes_after(self, step: int, steps: int) -> bool:
        """After `accumulate` steps, and every `refresh_every` steps from then on."""
        first, every = int(self.spec.accumulate), int(self.spec.refresh_every)
        return first <= step < steps and (step - first) % every == 0

    def accumulates_in(self, step: int, steps: int) -> bool:
        """In the first `accumulate` of every `refresh_every` steps, unless the run ends before the selection."""
        if self.needs_accumulators:  # which take in every step, of the trained entries alone
            return False
        begun = step - (step - 1) % int(self.spec.refresh_every)  # the step in which the last such phase began
        choice = begun + int(self.spec.accumulate) - 1
        return step <= choice < steps

    def refresh(self, state: MatrixState) -> Tensor:
        """Keep the k - n entries with the largest |delta|; grow n."""
        k = state.indices.numel()
        given_up, growth = self._given_up(state, k), self._growth(state)
        if self.needs_accumulators:
            given_up = min(given_up, growth.numel() - k)
        if not given_up:
            return state.indices
        kept = state.indices.new_empty(0).long()
        if given_up < k:
            kept = state.indices[largest(state.delta.abs(), k - given_up)].long()
        growth[kept] = EXCLUDED
        return torch.cat([kept, largest(growth, given_up)]).sort().values

    def _growth(self, state: MatrixState) -> Tensor:
        """By which entries grow, flat float32."""
        if not self.needs_accumulators:
            assert state.gradient is not None
            return state.gradient.abs().view(-1)
        assert state.accumulators is not None
        # Roots, in the same order: the product of two sums of squares would be too small for float32.
        rows, columns = (sums.sqrt() for sums in state.accumulators)
        growth = torch.outer(rows, columns).view(-1)
        growth[state.indices.long()] = EXCLUDED
        return growth

    def _given_up(self, state: MatrixState, k: int) -> int:
        first = state.step == self.spec.accumulate
        return k if first else int(self.spec.initial_rate * (1 - state.step / state.steps) * k)
