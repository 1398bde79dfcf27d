"""The contract of methods: what every method must guarantee, checked by training on real ranks."""

import shutil
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from gallop_ray.methods import MaskMethod, RefreshedMethod, method_class
from gallop_ray.methods.hybrid import Hybrid, tensors_of_parts
from gallop_ray.methods.lora_starts import START
from gallop_ray.methods.peft import PeftMethod
from gallop_ray.spec.registry import method_spec
from gallop_ray.spec.schema import Configuration, Sweep
from gallop_ray.tasks.metrics import Accuracies
from gallop_ray.testing.failures import fail_in_turn
from gallop_ray.testing.model import load, same, traces, whole_weights
from gallop_ray.testing.ranks import shared_ranks
from gallop_ray.training.context import NullReporter
from gallop_ray.training.resident import LoadedModel, load_base_model
from gallop_ray.training.run import execute, measure_base

STEPS, KEEP_EVERY = 7, 3
TIMES = {"seconds", "peak_memory_bytes", "started", "ended"}


class Case(NamedTuple):
    """A number of ranks, a ZeRO stage, and the ranks' backend: `gloo` on the CPU, `nccl` on GPUs."""

    world: int
    stage: int
    backend: str = "gloo"


CASES = (Case(1, 1), Case(2, 3))
"""A complete model on one rank, and a model split over two: the two extremes."""


class Asked(NamedTuple):
    """A method, its options, and the learning rate at which it learns something in seven steps."""

    kind: str
    options: Mapping[str, Any]
    learning_rate: float = 3e-3


def check_method(kind: str, options: Mapping[str, Any] | None = None, *, learning_rate: float = 3e-3) -> None:
    """Check a method against the contract, on one rank and on two. Raises AssertionError.

    Mask, weights and results are the same on every rank and in every repetition; a resumed run equals an uninterrupted
    one; the base model is restored bit for bit, also after failures; the adapter is exactly what has changed; and the
    method learns.

    Args:
        kind: the type as in a sweep file: a name, or `module:Class`.
        options: the method's options.
        learning_rate: one at which seven steps lower the loss of a tiny model.
    """
    for case in CASES:
        check_case(case, kind, options, learning_rate=learning_rate)


def check_case(case: Case, kind: str, options: Mapping[str, Any] | None = None, *, learning_rate: float = 3e-3) -> None:
    """The same for one number of ranks and ZeRO stage."""
    asked = Asked(kind, options or {}, learning_rate)
    with TemporaryDirectory(prefix="contract") as scratch:
        folder = Path(scratch)
        what, *others = shared_ranks(case.world, case.backend)(_try_method, asked, case.stage, folder)
        for other in others:
            assert other == what, "the ranks agree, in masks, weights and results"
        _check(asked, what, folder)
        if case.world > 1 and what["losses"][2] and not getattr(the_configuration(asked).method, "dropout", 0.0):
            # A checkpoint of several ranks is resumed with one, at another stage. Dropout differs with the ranks.
            alone = shared_ranks(1, case.backend)(_resume_alone, asked, folder).pop()
            torch.testing.assert_close(alone, what["losses"][2], atol=1e-4, rtol=0)


def _check(asked: Asked, what: Mapping[str, Any], folder: Path) -> None:
    first, again, resumed = what["results"]
    assert first == again, "it repeats itself"
    assert first == resumed, "it resumes from a checkpoint as if nothing had been"
    assert len(set(what["digests"])) == 1, "it ends with the same weights"
    spec = method_spec(asked.kind)
    _check_reach(method_class(spec), what, folder)
    _check_failures(method_class(spec), spec.trains, *what["failures"])
    if not spec.trains:
        return
    saved = [load_file(folder / turn / "adapter.safetensors") for turn in ("first", "again", "resumed")]
    assert same(saved[0], saved[1]), "it repeats its adapter"
    assert same(saved[0], saved[2]), "it resumes to the same adapter"
    losses, _, rest = what["losses"]
    assert losses[-1] < losses[0], "it learns"
    assert 0 < len(rest) < STEPS, "it did not start from the beginning"
    assert rest == losses[-len(rest) :], "it repeats its last losses"


def _check_reach(method: type, what: Mapping[str, Any], folder: Path) -> None:
    """Checks that only what the method may change has changed, and that its adapter contains exactly that."""
    result = what["results"][0]
    if issubclass(method, PeftMethod) or not result["trained_parameters"]:
        assert what["changed"] == {}, "the base is as it was while it is measured"
        if result["trained_parameters"]:
            saved = load_file(folder / "first" / "adapter.safetensors")
            trained = [t for name, t in saved.items() if f".{START}." not in name]
            assert sum(t.numel() for t in trained) == result["trained_parameters"], "its adapter is whole"
    elif issubclass(method, MaskMethod | Hybrid):
        adapter = load_file(folder / "first" / "adapter.safetensors")
        touched = {n.removesuffix(".indices"): set(t.tolist()) for n, t in adapter.items() if n.endswith(".indices")}
        assert sum(map(len, touched.values())) == result["mask"]["touched"]
        assert all(entries <= touched[n] for n, entries in what["changed"].items()), "only its entries change"
        _, added = tensors_of_parts(adapter)
        trained = result["mask"]["chosen"] + sum(t.numel() for t in added.values())
        assert trained == result["trained_parameters"], "its adapter is whole"
        assert bool(added) == issubclass(method, Hybrid)
        refreshed = issubclass(method, RefreshedMethod)
        assert (result["mask"]["touched"] > result["mask"]["chosen"]) == refreshed, "a mask is chosen again, or is not"
        assert sum(result["mask"]["magnitudes"]["chosen"]) == result["mask"]["chosen"]


def _check_failures(method: type, trains: bool, refused: str, in_a_step: str, at_1e30: str) -> None:
    if issubclass(method, MaskMethod | PeftMethod):
        assert refused == "ValueError", "what it may not replace is refused"
    if trains:
        assert in_a_step == "Planted"
        # A method that scales directions, like DoRA, may stay finite.
        allowed = {"Diverged"} if issubclass(method, MaskMethod) else {"Diverged", "finished"}
        assert at_1e30 in allowed, "values that are no numbers any more are told"


# -- on the ranks


class Watch(NullReporter):
    """Records the losses, and the weights just before the run is saved."""

    def __init__(self, path: Path, resident: LoadedModel) -> None:
        super().__init__(path)
        self.resident, self.losses = resident, list[float]()
        self.weights: dict[str, Tensor] = {}

    def event(self, event: str, **fields: Any) -> None:
        """See the class."""
        if event == "step":
            self.losses.append(fields["loss"])
        if fields.get("phase") == "saving":
            self.weights = whole_weights(self.resident.model)


def the_sweep(stage: int) -> Sweep:
    """Eight training examples and batches of eight, so that every step sees the same."""
    return Sweep.model_validate(
        {
            "name": "contract",
            "model": {"name": "tiny"},
            "data": {
                **{"root": "generated", "train": "second", "ood": ["max"]},
                "limits": {"train": 8, "validation": 2, "test": 2},
            },
            "methods": [{"type": "vanilla"}],
            "resources": {"workers_per_slot": 2},
            "deepspeed": {"zero_stage": stage},
            "training": {
                **{"steps": STEPS, "checkpoint_steps": KEEP_EVERY, "max_length": 32},
                **{"batch_size": 8, "micro_batch_size": 4},
            },
            "evaluation": {"batch_size": 8, "generate": False},
        }
    )


def the_configuration(asked: Asked, **training: Any) -> Configuration:
    """A method's configuration, with other training options."""
    tuned = {**the_sweep(1).training.model_dump(), "learning_rate": asked.learning_rate, **training}
    return Configuration.model_validate({"method": {"type": asked.kind, **asked.options}, "training": tuned})


@cache
def the_base(stage: int) -> tuple[LoadedModel, Accuracies, dict[str, Tensor], list[Any]]:
    """On each rank, once: the base model, its accuracies, all its weights, and its structure.

    All methods get the same one: whether it stays the same is what the contract is about.
    """
    resident = load_base_model(the_sweep(stage), load)
    base = measure_base(resident).accuracies
    return resident, base, whole_weights(resident.model), traces(resident.model)


def changed(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, set[int]]:
    """The flat indices of the base weights' entries that have changed."""
    found = {n: (weights[n] != b).view(-1).nonzero().view(-1).tolist() for n, b in base.items() if n in weights}
    return {n: set(entries) for n, entries in found.items() if entries}


def _try_method(asked: Asked, stage: int, folder: Path) -> dict[str, Any]:
    """Runs a method three times: completely, again, and from its last checkpoint. Returns what can be observed."""
    resident, base, weights, before = the_base(stage)
    spec = method_spec(asked.kind)
    results, watches = [], list[Any]()
    for turn in ("first", "again", "resumed"):
        path = folder / turn / "adapter.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        watch = Watch(path, resident)
        if turn == "resumed" and spec.trains:
            shutil.copy(watches[0].checkpoint, path.parent)
        result = execute(resident, the_configuration(asked), 1, base, watch)
        source = "checkpoint" if turn == "resumed" else "computed"
        assert result["scores"] == (source if spec.needs_gradients else None)
        assert same(whole_weights(resident.model), weights), "the base is restored"
        assert traces(resident.model) == before, "nothing is left behind"
        results.append({key: value for key, value in result.items() if key not in {*TIMES, "scores"}})
        watches.append(watch)
    return {
        "results": results,
        "losses": [watch.losses for watch in watches],
        "digests": [sum(float(w.double().abs().sum()) for w in watch.weights.values()) for watch in watches],
        "changed": changed(watches[0].weights, weights),
        "failures": fail_in_turn(resident, base, partial(the_configuration, asked), folder),
    }


def _resume_alone(asked: Asked, folder: Path) -> list[float]:
    """On one rank: the losses after resuming a checkpoint of several ranks."""
    resident, base, *_ = the_base(1)
    there, path = folder / "first", folder / "alone" / "adapter.safetensors"
    path.parent.mkdir()
    shutil.copy(there / "checkpoint.safetensors", path.parent)
    watch = Watch(path, resident)
    execute(resident, the_configuration(asked), 1, base, watch)
    mine, theirs = (
        {n: t for n, t in load_file(file).items() if not n.endswith(".indices")}
        for file in (path, there / "adapter.safetensors")
    )
    torch.testing.assert_close(mine, theirs, atol=3e-4, rtol=0)
    return watch.losses
