"""What examples say about each weight matrix, summed on the one rank that owns it: gradients, their squares, inputs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gallop_ray.sparse.candidates import Candidate, by_module
from gallop_ray.sparse.layers import is_plain_linear, score_layer
from gallop_ray.sparse.mixtures import ScoreMixture
from gallop_ray.sparse.weights import rank, world_size
from gallop_ray.spec.method import Evidence


def assign_owners(sizes: Sequence[int], ranks: int) -> list[int]:
    """The owning rank of each matrix: largest first, each to the rank that holds least. The same on every rank."""
    load = [0] * ranks
    owners = [0] * len(sizes)
    for matrix in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owner = load.index(min(load))
        owners[matrix], load[owner] = owner, load[owner] + sizes[matrix]
    return owners


class OwnedGradients:
    """The float32 sums of this rank's own matrices: 4 bytes x candidate entries / ranks.

    What is summed is the `evidence`: gradients, the squares of each example's gradient, the squares of the inputs
    (in,), the gradients of SynFlow's pass, or the products of each example's Hessian with the mean gradient. Squares
    need one example per pass, without padding.
    """

    def __init__(self, candidates: Sequence[Candidate], evidence: Evidence = "gradients") -> None:
        self.candidates = list(candidates)
        self.owners = assign_owners([c.numel for c in candidates], world_size())
        self.evidence = evidence
        self.sums: dict[int, Tensor] = {}
        self.counted = True
        """Whether the pass counts, or is one of a rank that has run out of examples."""
        self._in_pass: set[int] = set()
        if evidence == "inputs" and (other := next((c for c in candidates if not is_plain_linear(c.module)), None)):
            raise ValueError(f"{other.name} is no plain linear layer, whose inputs could be measured; leave it out")

    @property
    def owned(self) -> list[int]:
        """Positions, in the candidates' order, of the matrices that this rank owns."""
        return [i for i, owner in enumerate(self.owners) if owner == rank()]

    def begin_pass(self, counted: bool = True) -> None:
        """Call before the passes of each batch of examples."""
        self.counted = counted
        self._in_pass.clear()

    def add(self, matrix: int, gradient: Tensor) -> None:
        """Add every rank's gradient (out, in) of one matrix to its owner's sum. Collective.

        Raises ValueError, on every rank, where squares are summed and a matrix is used twice in one pass.
        """
        gradient = gradient.float()  # before any sum, in which bfloat16 would round small gradients away
        if self.evidence == "squares":
            if matrix in self._in_pass:  # (a + b)^2 is not a^2 + b^2
                name = self.candidates[matrix].name
                raise ValueError(f"the model calls {name} more than once per pass; leave it out of target_modules")
            self._in_pass.add(matrix)
            gradient = gradient.square()
        self._add(matrix, gradient)

    def _add_inputs(self, matrix: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().float()
        self._add(matrix, x.reshape(-1, x.shape[-1]).square().sum(0) * self.counted)

    def _add(self, matrix: int, gradient: Tensor) -> None:
        owner = self.owners[matrix]
        # Called from inside a pass: the ranks' reduces pair up because all reach the layers in the same order,
        # and make the same number of passes (see gradient_pass).
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
    def capture(self) -> Iterator[None]:
        """Context manager: every pass of the model adds its evidence here."""
        with self._capture_inputs() if self.evidence == "inputs" else self.capture_gradients():
            yield

    @contextmanager
    def _capture_inputs(self) -> Iterator[None]:
        adds = [partial(self._add_inputs, i) for i in range(len(self.candidates))]
        hooks = [c.module.register_forward_pre_hook(add) for c, add in zip(self.candidates, adds, strict=True)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def capture_gradients(self) -> Iterator[None]:
        """Context manager: every backward pass of the model adds its gradients, or their squares, here."""
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
        return self._whole(matrix, self.sums.pop(matrix, None))

    def copy(self, matrix: int) -> Tensor:
        """As take(), but the sum is kept, in host memory: a GPU may not have room for both sums and scores."""
        kept = self.sums[matrix] = self.sums.get(matrix, torch.zeros(self.candidates[matrix].shape)).cpu()
        whole = self._whole(matrix, kept)
        return whole.clone() if whole is kept else whole

    def _whole(self, matrix: int, total: Tensor | None) -> Tensor:
        """A sum in the weight's shape and on its device; inputs are the same for every row."""
        c = self.candidates[matrix]
        if total is None:
            return torch.zeros(c.shape, device=c.weight.device)
        there = total.to(c.weight.device)
        return there.expand(c.shape).clone() if there.shape != c.shape else there
