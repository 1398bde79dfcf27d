"""What an attachment may need beyond being trained; the loop calls the hooks of those that have them."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


class Masters(Protocol):
    """The optimizer's float32 values, of which the parameters are rounded copies."""

    def clear(self, entries: Mapping[int, Tensor]) -> None:
        """Set entries of parameters to 0, in the float32 values, too.

        entries: by the parameter's number, bool (k,), the same on every rank.
        """
        ...


@runtime_checkable
class Regularized(Protocol):
    """An attachment with a loss of its own beside that of the answers."""

    def regularizer(self) -> Tensor:
        """What to add to the loss of every micro-batch, a scalar, the same on every rank."""
        ...


@runtime_checkable
class Adapting(Protocol):
    """An attachment that changes, step by step, what of it is trained."""

    def before_training(self, steps: int) -> None:
        """Called once it is attached. steps: of the whole run. Raises ValueError where they are too few."""
        ...

    def takes_gradients(self, step: int) -> bool:
        """Whether after_step() reads the gradients of optimizer step `step` (1, 2, ...); the same on every rank."""
        ...

    def after_step(self, step: int, gradients: Sequence[Tensor], masters: Masters) -> None:
        """Called after optimizer step `step` (1, 2, ...) on every rank.

        gradients: float32, of `parameters`, complete and as the optimizer has taken them, the same on every rank; none
        unless takes_gradients().
        """
        ...


@runtime_checkable
class Keeping(Protocol):
    """An attachment with state beside its parameters."""

    def kept(self) -> dict[str, Tensor]:
        """Its state beside the parameters, by names that are the same in every attempt: a part of checkpoints."""
        ...

    def recall(self, kept: Mapping[str, Tensor]) -> None:
        """Continue from what kept() gave; called once it is attached, before the parameters are restored."""
        ...
