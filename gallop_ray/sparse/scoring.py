"""The scores of whole matrices, each on the rank that owns it, and the random generators for them."""

import hashlib
from typing import Protocol

import torch
from torch import Tensor

from gallop_ray.sparse.candidates import gathered
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.weights import rank


class Scorer(Protocol):
    """What scoring needs from a mask method."""

    @property
    def needs_gradients(self) -> bool:
        """Whether its score uses gradients."""
        ...

    def competing_scores(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """Scores of one whole weight (out, in), the largest to be chosen: float32, non-negative or EXCLUDED."""
        ...


def score_owned(
    owned: OwnedGradients, method: Scorer, seed: int, examples: int = 1, keep: bool = False
) -> dict[int, Tensor]:
    """The scores of this rank's matrices, by their position in the candidates' order. Collective under ZeRO-3.

    A method that needs gradients, or any where there are sums, gets them divided by `examples`; they are consumed
    unless `keep` is set.
    """
    scores = {}
    # Collective: the ranks that do not own the matrix take part, too.
    for i, (candidate, weight) in enumerate(gathered(owned.candidates)):
        if owned.owners[i] == rank():
            gradient = None
            if method.needs_gradients or owned.sums:
                gradient = (owned.copy(i) if keep else owned.take(i)).div_(examples)
            with torch.no_grad():
                scores[i] = method.competing_scores(weight, gradient, generator_of(seed, candidate.name))
    return scores


def generator_of(*parts: object) -> torch.Generator:
    """A generator seeded by these parts (a run's seed, a matrix's name, a step), the same on every rank and machine."""
    # Not hash(), which is salted per process.
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
