"""What a training method has to provide.

A mask method scores whole matrices; it never sees ranks, DeepSpeed or the number of entries to choose. Any other method
attaches its trainable parameters itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn


class Attachment(Protocol):
    """Trainable parameters on the base model. All of it is collective: every rank calls it alike."""

    @property
    def module(self) -> nn.Module:
        """What DeepSpeed runs: the base model, or what wraps it."""
        ...

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer trains."""
        ...

    def write(self) -> None:
        """Called after every optimizer step, to bring the weights up to date."""
        ...

    def settle(self) -> None:
        """Called once after the last step: make the weights what the saved adapter reproduces, to the bit."""
        ...

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Save the adapter as one safetensors file; rank 0 writes."""
        ...

    def detach(self) -> None:
        """Restore the base model bit for bit."""
        ...


class MaskMethod(ABC):
    """A method that trains the entries with the largest scores."""

    needs_gradients: ClassVar[bool]
    selection_ratio: float | None = None
    """Share of the training set whose mean gradient is scored; None where no gradient is."""

    @abstractmethod
    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        """Scores of one whole matrix, larger = rather train it: float32 (out, in), non-negative or EXCLUDED.

        weight: (out, in), in the model's dtype; not to be changed. gradient: float32 (out, in), the signed mean over
        the selection examples, free to be overwritten; None unless needs_gradients. generator: seeded by the run's
        seed and the matrix's name.
        """


class TunerMethod(ABC):
    """A method that brings its own trainable parameters."""

    @abstractmethod
    def attach(self, model: nn.Module) -> Attachment:
        """Make the model trainable; torch's random state is seeded by the run."""
