"""What a training method has to provide.

A mask method scores whole matrices; it never sees ranks or DeepSpeed. A refreshed method reselects its mask while it
trains. Any other method attaches its trainable parameters itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gallop_ray.sparse.budget import Quota, quotas
from gallop_ray.sparse.candidates import Candidate
from gallop_ray.sparse.competition import Spread, by_row, by_spread
from gallop_ray.sparse.sm3 import RowsAndColumns
from gallop_ray.spec.method import MaskMethodSpec, MethodSpec, RefreshedMethodSpec


class Attachment(Protocol):
    """Trainable parameters on the base model. Every method is collective: all ranks call them in the same order."""

    @property
    def module(self) -> nn.Module:
        """What DeepSpeed runs: the base model, or a wrapper around it."""
        ...

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer trains; empty where the base model is only measured."""
        ...

    def write(self) -> None:
        """Called after every optimizer step, to bring the weights up to date."""
        ...

    def finalized(self) -> AbstractContextManager[None]:
        """Context manager, between two steps: the weights as finalize() would leave them, up to rounding."""
        ...

    def finalize(self) -> None:
        """Called once after the last step: make the weights bit for bit what the saved adapter reproduces."""
        ...

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Save the adapter as one safetensors file; rank 0 writes."""
        ...

    def detach(self) -> None:
        """Restore the base model bit for bit."""
        ...


@runtime_checkable
class StepwiseAttachment(Attachment, Protocol):
    """An attachment that has to know the step."""

    def begin_step(self, step: int) -> None:
        """Called before the backward passes of optimizer step `step` (1, 2, ...), on every rank."""
        ...


class MaskMethod(ABC):
    """A method that trains the entries with the largest scores."""

    Options: ClassVar[type[MaskMethodSpec]] = MaskMethodSpec
    """What a sweep file may set; GradientMethodSpec or a subclass of it for a score that uses gradients."""
    needs_matrices: ClassVar[bool] = False
    """Whether only matrices can be scored, not the vectors of norms."""
    spread: Spread = "norm_times_entropy"
    """What a matrix's budget is proportional to with scope `entropy`."""
    entries_per_unit: int = 1
    """How many entries one position in the scores represents."""

    def __init_subclass__(cls) -> None:
        """Raises TypeError unless a method reselects its mask exactly if its options say so."""
        # The options refuse `keep: best`, which would bring old values back onto a new mask.
        if cls.Options.refreshes != hasattr(cls, "refresh"):
            raise TypeError(f"{cls.__name__}.Options: a RefreshedMethod has a RefreshedMethodSpec, and no other has")

    def __init__(self, spec: MaskMethodSpec) -> None:
        self.spec: Any = spec

    @property
    def needs_gradients(self) -> bool:
        """Whether the score uses mean gradients; the options declare it."""
        return bool(self.spec.needs_gradients)

    @property
    def selection_ratio(self) -> float | None:
        """Share of the training set whose mean gradient is scored; None for the first batch, or without gradients."""
        ratio: float | None = getattr(self.spec, "selection_ratio", None)
        return ratio

    def quotas(self, candidates: Sequence[Candidate], total: int) -> list[Quota]:
        """How many entries (or units, see `entries`) to choose, and from which matrices; `total` is N.

        Raises ValueError for a density that the candidates cannot hold, and for a candidate that is not a matrix where
        the method needs matrices.
        """
        vectors = [c.name for c in candidates if len(c.shape) != 2] if self.needs_matrices else []
        if vectors:
            raise ValueError(f"{self.spec.type} scores matrices, and {vectors[0]} has none; leave it out")
        return quotas(self.spec.density, self.spec.scope, candidates, total)

    @abstractmethod
    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """Scores of one complete weight, the highest chosen first: float32 in its shape, non-negative or EXCLUDED.

        weight: (out, in), or (hidden,) for a norm, in the model's dtype; must not be changed. gradient: float32 in the
        same shape, the signed mean over the selection examples, may be overwritten; None unless needs_gradients.
        generator: seeded by the run's seed and the matrix's name.
        """

    @property
    def full_steps(self) -> int | None:
        """Steps of full fine-tuning, undone afterwards, whose changes are the `gradient` of score(); None for no such.

        0 for as many as the run has.
        """
        return None

    def most_entries(self, candidates: Sequence[Candidate], total: int) -> int:
        """How many entries the quotas choose at most, for estimates; arguments and errors as quotas()."""
        chosen = sum(quota.k for quota in self.quotas(candidates, total)) * self.entries_per_unit
        return min(chosen, sum(c.numel for c in candidates))

    def competing_scores(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """The scores as they compete: with scope `per_row` or `entropy` rewritten to keep that budget."""
        scores = self.score(weight, gradient, generator)
        if self.spec.scope == "per_row":
            return by_row(scores)
        return by_spread(scores, self.spread) if self.spec.scope == "entropy" else scores

    def entries(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        """The sorted flat entries of a matrix of `shape` for chosen positions in its scores.

        The positions themselves, unless a method scores larger units than entries.
        """
        return units


class RefreshedMethod(MaskMethod):
    """A mask method that reselects its mask while it trains; every matrix keeps its number of entries."""

    Options: ClassVar[type[MaskMethodSpec]] = RefreshedMethodSpec
    restores_dropped: ClassVar[bool] = False
    """Whether a dropped entry returns to its base value, instead of keeping what it has learnt."""
    delta_decay: float = 0.0
    """Weight decay of the delta, in addition to that of the weights."""
    needs_accumulators: bool = False
    """Whether it goes by SM3's accumulators of the trained entries' gradients."""

    @abstractmethod
    def refreshes_after(self, step: int, steps: int) -> bool:
        """Whether to reselect after optimizer step `step` (1, 2, ...) of `steps`."""

    def accumulates_in(self, step: int, steps: int) -> bool:
        """Whether the gradients of this optimizer step (1, 2, ...) are summed for the next selection."""
        return False

    @abstractmethod
    def refresh(self, state: "MatrixState") -> Tensor:
        """The sorted flat indices of one complete matrix to train from now on, as many as before."""


@dataclass(frozen=True)
class MatrixState:
    """One matrix in the middle of training, on the rank that owns it."""

    weight: Tensor
    """(out, in), as trained so far."""
    gradient: Tensor | None
    """float32 (out, in), the sum since the last selection; None unless accumulated."""
    indices: Tensor
    """Sorted flat (k,), the entries trained now."""
    delta: Tensor
    """float32 (k,), trained minus base."""
    step: int
    """Optimizer steps done."""
    steps: int
    """Of the whole run."""
    generator: torch.Generator
    """As for MaskMethod.score."""
    accumulators: RowsAndColumns | None = None
    """SM3's of all steps so far, one number for each row (out,) and column (in,); None unless needed."""


class TunerMethod(ABC):
    """A method that brings its own trainable parameters."""

    Options: ClassVar[type[MethodSpec]] = MethodSpec
    """What a sweep file may set."""

    def __init__(self, spec: MethodSpec) -> None:
        self.spec: Any = spec

    @abstractmethod
    def attach(self, model: nn.Module) -> Attachment:
        """Attach trainable parameters to the model; torch's random state is seeded by the run."""

    def attach_again(self, model: nn.Module) -> Attachment:
        """The same for parameters that are then read from a file, with what the attachment keeps (Keeping).

        A method may leave out what only finds their first values.
        """
        return self.attach(model)
