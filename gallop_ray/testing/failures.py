"""Runs that must fail, each in a different place: in every case the base model must be restored."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gallop_ray.spec.schema import Configuration
from gallop_ray.tasks.metrics import Accuracies
from gallop_ray.testing.model import same, traces, whole_weights
from gallop_ray.training.context import NullReporter
from gallop_ray.training.resident import LoadedModel
from gallop_ray.training.run import execute


class Planted(Exception):
    """An exception that no method expects."""


@contextmanager
def refused_half_way(model: nn.Module) -> Iterator[None]:
    """Replacing a module of the base model fails the second time."""
    whole, real, replaced = set(model.modules()), nn.Module.__setattr__, []

    def replace_one(parent: nn.Module, name: str, value: Any) -> None:
        if parent in whole and isinstance(value, nn.Module) and name in parent._modules:
            replaced.append(name)
            if len(replaced) == 2:
                raise ValueError("planted")
        real(parent, name, value)

    nn.Module.__setattr__ = replace_one  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.__setattr__ = real  # type: ignore[method-assign]


def failing_in_a_step(resident: LoadedModel) -> LoadedModel:
    """The loss of a run's third micro-batch fails."""
    copy, micro_batches = replace(resident), iter(range(100))

    def losses(*args: Any) -> Tensor:
        if next(micro_batches) == 2:
            raise Planted
        return resident.losses(*args)

    copy.__dict__["losses"] = losses
    return copy


def fail_in_turn(
    resident: LoadedModel, base: Accuracies, configured: Callable[..., Configuration], folder: Path
) -> list[str]:
    """On each rank: how a method ends that is refused half-way, fails in the middle of a step, or diverges.

    configured: the method's configuration with other training options.
    """
    weights, before, ends = whole_weights(resident.model), traces(resident.model), []
    for case, whole, configuration in (
        ("half-way", resident, configured(steps=2, checkpoint_steps=None)),
        ("step", failing_in_a_step(resident), configured(steps=3, checkpoint_steps=None)),
        ("divergence", resident, configured(steps=2, checkpoint_steps=None, learning_rate=1e30)),
    ):
        (folder / case).mkdir(parents=True, exist_ok=True)
        reporter = NullReporter(folder / case / "adapter.safetensors")
        try:
            with refused_half_way(resident.model) if case == "half-way" else nullcontext():
                execute(whole, configuration, 1, base, reporter)
            ends.append("finished")
        except Exception as error:
            ends.append(type(error).__name__)
        assert same(whole_weights(resident.model), weights), f"the base is restored after {case}"
        assert traces(resident.model) == before, f"nothing is left behind after {case}"
    return ends
