"""Gradient sums for scoring: each weight matrix's on the one rank that owns it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from gallop_ray.sparse.candidates import Candidate, by_module
from gallop_ray.sparse.layers import score_layer
from gallop_ray.sparse.mixtures import ScoreMixture
from gallop_ray.sparse.weights import rank, world_size


def assign_owners(sizes: Sequence[int], ranks: int) -> list[int]:
    """The owning rank of each matrix: largest first, each to the rank that holds least. The same on every rank."""
    load = [0] * ranks
    owners = [0] * len(sizes)
    for matrix in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owner = load.index(min(load))
        owners[matrix], load[owner] = owner, load[owner] + sizes[matrix]
    return owners


class OwnedGradients:
    """The float32 gradient sums of this rank's own matrices: 4 bytes x candidate entries / ranks."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = list(candidates)
        self.owners = assign_owners([c.numel for c in candidates], world_size())
        self.sums: dict[int, Tensor] = {}

    @property
    def owned(self) -> list[int]:
        """Positions, in the candidates' order, of the matrices that this rank owns."""
        return [i for i, owner in enumerate(self.owners) if owner == rank()]

    def add(self, matrix: int, gradient: Tensor) -> None:
        """Add every rank's gradient (out, in) of one matrix to its owner's sum. Collective."""
        gradient = gradient.float()  # before any sum, in which bfloat16 would round small gradients away
        owner = self.owners[matrix]
        # Called from inside backward: the ranks' reduces pair up because all reach the layers in the same order,
        # and make the same number of backward passes (see gradient_pass).
        if world_size() > 1:
            dist.reduce(gradient, dst=owner)
        if owner == rank():
            total = self.sums.get(matrix)  # copy() may have moved it to the host
            self.sums[matrix] = gradient if total is None else total.to(gradient.device).add_(gradient)

    def _add_parts(self, numbered: Sequence[tuple[int, Candidate]], gradient: Tensor) -> None:
        """Of a whole parameter each candidate's part."""
        for i, c in numbered:
            self.add(i, c.of(gradient))

    @contextmanager
    def capture_gradients(self) -> Iterator[None]:
        """Context manager: every backward pass of the model adds its gradients here."""
        numbers = {c.name: i for i, c in enumerate(self.candidates)}
        for together in by_module(self.candidates):
            first, takes = together[0], dict[str, Callable[[Tensor], None]]()
            for c in together:
                of_weight = [(numbers[o.name], o) for o in together if o.parameter == c.parameter]
                takes[c.parameter] = partial(self._add_parts, of_weight)
            alone = set(takes) == {"weight"}
            layer = score_layer(first.module, takes["weight"]) if alone else ScoreMixture(first.module, takes)
            setattr(first.parent, first.attribute, layer)
        try:
            yield
        finally:
            for c in self.candidates:
                setattr(c.parent, c.attribute, c.module)

    def take(self, matrix: int) -> Tensor:
        """Remove and return this rank's sum of one owned matrix; zeros where there was never a gradient."""
        total = self.sums.pop(matrix, None)
        device = self.candidates[matrix].weight.device
        return torch.zeros(self.candidates[matrix].shape, device=device) if total is None else total.to(device)

    def copy(self, matrix: int) -> Tensor:
        """As take(), but the sum is kept, in host memory: a GPU may not have room for both sums and scores."""
        total = self.take(matrix)
        self.sums[matrix] = total.cpu()
        return total.clone() if self.sums[matrix] is total else total
