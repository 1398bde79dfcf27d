"""Weight decay to the base values instead of to zero."""

from torch import Tensor

from gallop_ray.methods import MaskMethod, RefreshedMethod
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.spec.schema import TrainingSpec
from gallop_ray.training.engine import Engine


class DecayToBase:
    """Before a step of learning rate r, the values v become v - r strength (v - base); decoupled, as AdamW's decay.

    It acts on the optimizer's float32 values, whatever the optimizer, and never enters gradients or moments.
    """

    def __init__(self, delta: SparseDelta, strength: float) -> None:
        self._delta, self._strength = delta, strength
        self._entries: list[Tensor] = []
        self._base: list[Tensor] = []

    def apply(self, engine: Engine, learning_rate: float) -> None:
        """To be called before each optimizer step."""
        if self._entries is not self._delta.indices:  # the first step, or the mask has changed
            self._entries, self._base = self._delta.indices, self._delta.base()
        engine.state(self._delta.parameters).pull(self._base, learning_rate * self._strength)


def decay_to_base(method: MaskMethod, delta: SparseDelta, training: TrainingSpec) -> DecayToBase | None:
    """What a mask method's run asks for: the decay of its weights, where that goes to the base, and of its delta."""
    strength = method.delta_decay if isinstance(method, RefreshedMethod) else 0.0
    strength += training.weight_decay if training.decay_to == "base" else 0.0
    return DecayToBase(delta, strength) if strength else None
