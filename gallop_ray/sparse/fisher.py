"""The diagonal Fisher information of weights: the mean over examples of the square of each example's gradient."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.mask import broadcast_from_owners
from gallop_ray.sparse.weights import collective_device, is_split, local, own_part, world_size
from gallop_ray.spec.method import Evidence


class OwnedFisher:
    """That of whole weight matrices, each in the host memory of the one rank that owns it; serves any mask."""

    def __init__(self, squares: OwnedGradients, examples: int) -> None:
        """Takes over the sums of `squares`, which were added up over so many examples."""
        self._squares = squares
        self._mean = {m: squares.take(m).div_(examples).cpu() for m in squares.owned}

    def at(self, indices: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Float32 (k,) at the flat indices (k,) of each named weight, on every rank. Collective."""
        device, parts = collective_device(), {}
        for m, values in self._mean.items():
            places = indices.get(self._squares.candidates[m].name, torch.empty(0))
            parts[m] = values.view(-1)[places.cpu().long()].to(device)
        found = broadcast_from_owners(self._squares.candidates, parts, torch.float32)
        named = zip((c.name for c in self._squares.candidates), found, strict=True)
        return {name: values.to(indices[name].device) for name, values in named if name in indices}


class StoredSquares:
    """The squares of each example's gradient of whole parameters, summed: of what this rank stores of them.

    Unlike OwnedGradients it takes every parameter: biases, and weights that modules share, whose gradients autograd has
    added up before they are squared. Passes are of one example each.
    """

    evidence: Evidence = "squares"

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._sums = [torch.zeros_like(local(p), dtype=torch.float32) for p in parameters]

    def begin_pass(self, counted: bool = True) -> None:
        """Nothing to note: a pass that does not count has gradients of 0."""

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Context manager: every backward pass adds its squares here, and leaves no gradient."""
        hooks = []
        for number, parameter in enumerate(self._parameters):
            parameter.requires_grad_(True)
            hooks.append(parameter.register_post_accumulate_grad_hook(partial(self._add, number)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for parameter in self._parameters:
                parameter.requires_grad_(False)

    def _add(self, number: int, parameter: Tensor) -> None:
        assert parameter.grad is not None
        squared, parameter.grad = parameter.grad.float().square(), None
        if not is_split(parameter):
            self._sums[number].add_(squared.view(-1))
            return
        # Of a shard every rank needs all examples now: it does not keep the other shards of its own.
        if world_size() > 1:
            dist.all_reduce(squared)
        mine = own_part(parameter, squared.view(-1)).to(self._sums[number])  # an offloaded shard is in host memory
        self._sums[number][: mine.numel()].add_(mine)

    def fisher(self, examples: int) -> list[Tensor]:
        """The mean over so many examples: flat float32, as this rank stores the parameters. Collective."""
        for parameter, total in zip(self._parameters, self._sums, strict=True):
            if world_size() > 1 and not is_split(parameter):
                dist.all_reduce(total)
            total.div_(examples)
        return self._sums
