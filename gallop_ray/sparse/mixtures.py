"""Layers with several weights to train or to score: a mixture's experts, with one three-dimensional parameter for each
of their projections.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from gallop_ray.sparse.layers import ChosenEntries, scored, spliced, take_over, with_weights


class _Around(nn.Module):
    """A layer around another one that also has its attributes: mixtures ask their experts for their number."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        for name, child in inner.named_children():
            self.add_module(name, child)
        take_over(self, inner)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "inner" not in self.__dict__:  # while it is being built: the lookup below would come here again
                raise
            return getattr(self.__dict__["inner"], name)


class SparseMixture(_Around):
    """A layer in which only chosen entries of some of its weights are trained."""

    def __init__(self, inner: nn.Module, chosen: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """chosen: by the weight's name, its flat indices (k,) and the values (k,) there."""
        super().__init__(inner)
        self.entries: Mapping[str, ChosenEntries] = {n: _WeightEntries(self, n, *of) for n, of in chosen.items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped layer's output, with the frozen weights."""
        return with_weights(self, {name: spliced(each) for name, each in self.entries.items()}, args, kwargs)


class _WeightEntries(ChosenEntries):
    """The entries of one weight of a SparseMixture, which registers the tensors: models move and split only such."""

    def __init__(self, holder: SparseMixture, name: str, indices: Tensor, values: Tensor) -> None:
        self.holder, self.names = holder, (name, f"{name}_values")
        self._indices = f"{name}_indices"
        holder.register_buffer(self._indices, indices, persistent=False)
        holder.register_parameter(self.names[1], nn.Parameter(values))

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]
        """The parameter of all experts."""
        return self.holder.get_parameter(self.names[0])

    @property
    def values(self) -> nn.Parameter:  # type: ignore[override]
        """See ChosenEntries."""
        return self.holder.get_parameter(self.names[1])

    @property
    def indices(self) -> Tensor:
        """See ChosenEntries."""
        return self.holder.get_buffer(self._indices)

    @indices.setter
    def indices(self, value: Tensor) -> None:
        setattr(self.holder, self._indices, value)


class ScoreMixture(_Around):
    """A layer without trainable parameters that passes each backward pass's gradients of some weights to functions."""

    def __init__(self, inner: nn.Module, takes: Mapping[str, Callable[[Tensor], None]]) -> None:
        super().__init__(inner)
        self._takes = takes

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped layer's output, with the frozen weights."""
        passed = {name: scored(getattr(self, name), take) for name, take in self._takes.items()}
        return with_weights(self, passed, args, kwargs)
