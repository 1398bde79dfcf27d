"""Whole runs on ranks, one after another on one resident model: repeatable, and the base is as if nothing had been."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from gallop_ray.errors import Diverged
from gallop_ray.sparse.adapter import apply_adapter
from gallop_ray.sparse.base_state import base_hash
from gallop_ray.spec.configuration import asked
from gallop_ray.spec.data import ModelSpec
from gallop_ray.spec.schema import Configuration, Sweep
from gallop_ray.testing.model import load, traces
from gallop_ray.training import run
from gallop_ray.training.context import NullReporter
from gallop_ray.training.resident import LoadedModel, load_base_model
from gallop_ray.training.run import execute, measure_base
from tests.training import tiny

TIMES = {"seconds", "peak_memory_bytes", "started", "ended"}
TUNED: Mapping[str, Any] = {"steps": 4, "batch_size": 8, "micro_batch_size": 2, "learning_rate": 1e-2}
METHODS: dict[str, dict[str, Any]] = {
    "gallop": {"density": 0.05, "selection_ratio": 0.5},
    "random": {"density": {"lora_rank": 2}},
    "lora": {"rank": 2, "dropout": 0.1},
    "full": {},
}
TURNS = (
    ("gallop", 0),
    ("lora", 0),
    ("full", 0),
    ("gallop", 0),
    ("random", 0),
    ("full", 0),
    ("lora", 0),
    ("random", 1),
    ("random", 0),
)


def sweep(stage: int, dtype: str = "float32") -> Sweep:
    return Sweep.model_validate(
        {
            "name": "tiny",
            "model": {"name": "tiny", "dtype": dtype},
            "data": {
                "root": "generated",
                "train": "second",
                "ood": ["max"],
                "limits": {"train": 24, "validation": 5, "test": 5},
            },
            "methods": [{"type": "gallop"}],
            "resources": {"workers_per_slot": 2},
            "deepspeed": {"zero_stage": stage},
            "training": {**TUNED, "max_length": 32},
            "evaluation": {"batch_size": 3, "max_new_tokens": 2},
        }
    )


def configuration(resident: LoadedModel, method: str, options: Mapping[str, Any], **training: Any) -> Configuration:
    tuned = resident.sweep.training.model_dump() | training
    return Configuration.model_validate({"method": {"type": method, **options}, "training": tuned})


def run_turns(stage: int, dtype: str, folder: Path) -> list[dict[str, Any]]:
    """On each rank: all methods in turn, each twice; results without times, and whether the base was restored."""
    resident = load_base_model(sweep(stage, dtype), load)
    base, weights = measure_base(resident).accuracies, tiny.whole_weights(resident.model)
    before = traces(resident.model)
    results = []
    for turn, (method, seed) in enumerate(TURNS):
        reporter = NullReporter(folder / f"{turn}.safetensors")
        result = execute(resident, configuration(resident, method, METHODS[method]), seed, base, reporter)
        assert result.keys() >= TIMES
        assert tiny.same(tiny.whole_weights(resident.model), weights), f"{method} restores the base"
        assert traces(resident.model) == before, f"{method} leaves nothing behind"
        results.append({key: value for key, value in result.items() if key not in TIMES})
    assert measure_base(resident).accuracies == base
    return results


def first_turn(method: str, seed: int = 0) -> int:
    return TURNS.index((method, seed))


@pytest.mark.parametrize(("stage", "dtype"), [(1, "float32"), pytest.param(3, "bfloat16", marks=pytest.mark.long)])
def test_methods_in_turn_repeat_bitwise(ranks: Callable, tmp_path: Path, stage: int, dtype: str) -> None:
    results, other = ranks(2)(run_turns, stage, dtype, tmp_path)
    assert results == other, "the ranks agree"
    for turn, (method, seed) in enumerate(TURNS):
        first = first_turn(method, seed)
        assert results[turn] == results[first], f"{method} repeats its result"
        saved, again = (load_file(tmp_path / f"{n}.safetensors") for n in (first, turn))
        assert tiny.same(saved, again), f"{method} repeats its adapter"
    losses = {result["train_loss"] for result in results}
    assert len(losses) == len(set(TURNS)), "each method and seed trains differently"
    _check_random_masks(tmp_path)
    _check_adapter(tmp_path / "0.safetensors", results[0], dtype)


def _check_random_masks(folder: Path) -> None:
    first, second = (load_file(folder / f"{first_turn('random', seed)}.safetensors") for seed in (0, 1))
    chosen = [
        {(n, i) for n, t in saved.items() if n.endswith(".indices") for i in t.tolist()} for saved in (first, second)
    ]
    assert len(chosen[0]) == len(chosen[1])
    assert len(chosen[0] & chosen[1]) < 0.5 * len(chosen[0]), "another seed draws another mask"


def _check_adapter(path: Path, result: Mapping[str, Any], dtype: str) -> None:
    """The file holds what the result says, and belongs to the base model."""
    tensors = load_file(path)
    indices = {n: t for n, t in tensors.items() if n.endswith(".indices")}
    assert sum(t.numel() for t in indices.values()) == result["trained_parameters"] == result["mask"]["chosen"]
    for name, t in indices.items():
        assert t.dtype == torch.int32
        assert bool((t[1:] > t[:-1]).all())
        assert result["mask"]["matrices"][name.removesuffix(".weight.indices")][0] == t.numel()
    model, _ = load(ModelSpec(name="tiny", dtype=dtype))
    with safe_open(path, "pt") as file:
        assert file.metadata()["base_hash"] == base_hash(model)
    apply_adapter(model, path)


FAILING: dict[str, tuple[str, dict[str, Any], dict[str, Any], type[Exception], str]] = {
    "sparse diverges": ("random", {"density": 0.2}, {"learning_rate": 1e30}, Diverged, "lower learning rate"),
    "lora diverges": ("lora", {"rank": 2}, {"learning_rate": 1e30}, Diverged, "lower learning rate"),
    "full diverges": ("full", {}, {"learning_rate": 1e30}, Diverged, "lower learning rate"),
    "a choice of what has diverged": (
        "spiel",
        {"density": 0.2, "refresh_every": 2, "accumulate": 1},
        {"learning_rate": 1e30},
        Diverged,
        "lower learning rate",
    ),
    "too dense": ("gallop", {"density": 0.99}, {}, ValueError, "but the target modules hold"),
    "too few eligible": ("gallop", {"eps": 1e3}, {}, ValueError, "0 are eligible"),
    "unknown module": ("lora", {"target_modules": ["query"]}, {}, ValueError, "matches nothing"),
    "checkpointing": (
        "gallop",
        {"eps": 1e3},
        {"gradient_checkpointing": True},
        ValueError,
        "0 are eligible",
    ),
}


def run_failures(stage: int, folder: Path) -> tuple[dict[str, str], list[Any]]:
    """On each rank: what each failing run says, and the results of a good run before and after all of them."""
    resident = load_base_model(sweep(stage), load)
    base, weights = measure_base(resident).accuracies, tiny.whole_weights(resident.model)
    before = traces(resident.model)
    reporter = NullReporter(folder / "adapter.safetensors")
    good = configuration(resident, "gallop", METHODS["gallop"], gradient_checkpointing=True)
    losses, said = [execute(resident, good, 0, base, reporter)["train_loss"]], {}
    for name, (method, options, training, kind, _) in FAILING.items():
        with pytest.raises(kind) as error:
            execute(resident, configuration(resident, method, options, **training), 0, base, reporter)
        said[name] = str(error.value)
        assert tiny.same(tiny.whole_weights(resident.model), weights), f"{name}: the base is restored"
        assert traces(resident.model) == before, f"{name}: nothing is left behind"
        assert not resident.model.is_gradient_checkpointing
    losses.append(execute(resident, good, 0, base, reporter)["train_loss"])
    return said, losses


@pytest.mark.parametrize("stage", [1, pytest.param(3, marks=pytest.mark.long)])
def test_a_failed_run_leaves_nothing_behind(ranks: Callable, tmp_path: Path, stage: int) -> None:
    (said, losses), other = ranks(2)(run_failures, stage, tmp_path)
    assert (said, losses) == other, "the ranks agree"
    assert losses[0] == losses[1]
    for name, (*_, expected) in FAILING.items():
        assert expected in said[name]


LAW: dict[str, dict[str, Any]] = {"random": {"density": 0.05}, "lora": {"rank": 2}, "full": {}}


def run_by_the_law(stage: int, folder: Path) -> list[tuple[float, float, bool]]:
    """For each method: the rate by the law, the reported one, and whether the same rate without it gives the same."""
    resident = load_base_model(sweep(stage), load)
    base, told = measure_base(resident).accuracies, []
    for method, options in LAW.items():
        paths = folder / f"{method}-law.safetensors", folder / f"{method}.safetensors"
        lawful = configuration(resident, method, options, learning_rate=1e-4, density_exponent=-0.5)
        found = execute(resident, lawful, 0, base, NullReporter(paths[0]))
        assert asked(lawful, 0)["learning_rate"] is None, "before its density is known"
        rate = 1e-4 * found["density"] ** -0.5
        plain = execute(
            resident, configuration(resident, method, options, learning_rate=rate), 0, base, NullReporter(paths[1])
        )
        same = tiny.same(*(load_file(path) for path in paths)) and found["train_loss"] == plain["train_loss"]
        told.append((rate, found["learning_rate"], same))
    return told


def test_a_learning_rate_follows_the_density_of_what_is_trained(ranks: Callable, tmp_path: Path) -> None:
    told, other = ranks(2)(run_by_the_law, 1, tmp_path)
    assert told == other, "the ranks agree"
    for expected, reported, same in told:
        assert reported == expected
        assert same
    random, lora, full = (rate for rate, *_ in told)
    assert full == 1e-4, "full fine-tuning has density 1"
    assert random == pytest.approx(1e-4 * 0.05**-0.5, rel=1e-2)
    assert lora > full


def run_nothing(stage: int, folder: Path) -> list[dict[str, Any]]:
    """A run that trains nothing, on a worker that has measured the base model and on one that has not."""
    told = []
    for known in (True, False):
        resident = load_base_model(sweep(stage), load)
        base = measure_base(resident)
        if not known:
            resident.of_base.clear()
        nothing = configuration(resident, "vanilla", {})
        with mock.patch.object(run, "measure", wraps=run.measure) as measured:
            found = execute(resident, nothing, 0, base.accuracies, NullReporter(folder / "none.safetensors"))
        assert measured.called != known, "it is measured once"
        assert found["tasks"] == base.accuracies
        told.append({key: value for key, value in found.items() if key not in TIMES})
    return told


@pytest.mark.parametrize("stage", [1, 3])
def test_what_trains_nothing_is_what_was_measured_of_the_base_model(
    ranks: Callable, tmp_path: Path, stage: int
) -> None:
    for with_known, without in ranks(2)(run_nothing, stage, tmp_path):
        assert with_known == without
