"""What every method must keep to, on real ranks at ZeRO 1 and 3."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from math import isfinite
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gallop_ray.methods import MaskMethod, RefreshedMethod, make_method, method_class
from gallop_ray.methods.full import Full, Lines, Vanilla, WiseFt
from gallop_ray.methods.peft import PeftMethod
from gallop_ray.spec.methods import PeftSpec
from gallop_ray.spec.peft_tuners import REFUSED, WORKING
from gallop_ray.spec.registry import method_spec, method_types
from gallop_ray.spec.schema import Configuration, Sweep
from gallop_ray.tasks.metrics import Accuracies
from gallop_ray.training.context import Silent
from gallop_ray.training.resident import Resident, load_resident
from gallop_ray.training.run import execute, measure_base
from tests.training import test_run, tiny

ALL: dict[str, dict[str, Any]] = {
    "gallop": {"density": 0.05, "selection_ratio": 0.5},
    "saft": {"density": {"lora_rank": 2}, "selection_ratio": 0.5, "scope": "per_layer"},
    "sift": {"density": 0.05},
    "snip": {"density": 0.05, "selection_ratio": 0.5, "scope": "per_matrix", "target_modules": tiny.EVERYWHERE},
    "magnitude": {"density": 0.05, "choose": "lowest"},
    "random": {"density": 0.05},
    "smt": {"density": 0.05, "selection_ratio": 0.5, "block_size": 8},
    "sara": {"density": 0.05},
    "lift": {"density": {"lora_rank": 2}, "rank": 4, "refresh_every": 2},
    "spiel": {
        **{"density": 0.05, "refresh_every": 4, "accumulate": 2, "initial_rate": 0.5, "delta_decay": 0.01},
        "target_modules": tiny.EVERYWHERE,
    },
    "lora": {"rank": 2, "dropout": 0.1},
    "dora": {"rank": 2},
    "peft": {"tuner": "ia3", "options": {"feedforward_modules": []}},
    "full": {},
    "wise_ft": {"alpha": 0.7},
    "lines": {"first": 0.25},
    "vanilla": {},
}
METHODS = {name: method_class(method_spec(name)) for name in method_types()}
TUNERS: dict[str, dict[str, Any]] = {tuner: {} for tuner in WORKING} | {
    "c3a": {"block_size": 8},
    "fourierft": {"n_frequency": 16},
    "ia3": {"feedforward_modules": []},
    "ln_tuning": {"target_modules": ["input_layernorm"]},
    "miss": {"r": 4},
    "psoft": {"r": 4},
    "road": {"group_size": 16},
    "shira": {"r": 2},
    "trainable_tokens": {"token_indices": [1, 2, 3], "target_modules": ["embed_tokens"]},
    "vblora": {"num_vectors": 8, "vector_length": 16},
    "waveft": {"n_frequency": 16},
}
"""Every tuner of PEFT that works, with options for weights as small as these."""
STEPS, KEEP_EVERY = 7, 3


def test_every_method_is_here() -> None:
    assert ALL.keys() == METHODS.keys()


def test_every_tuner_of_this_version_works_or_is_refused() -> None:
    assert not set(WORKING) & REFUSED.keys()
    assert {*WORKING, *REFUSED} == {kind.value.lower() for kind in peft.PEFT_TYPE_TO_CONFIG_MAPPING}


@pytest.mark.parametrize("name", ALL)
def test_options_say_whether_the_mask_is_refreshed(name: str) -> None:
    method = make_method(the_configuration(the_sweep(1), name).method)
    assert method.spec.refreshes == isinstance(method, RefreshedMethod)


class Watch(Silent):
    """Notes the losses, and what the weights are when the run is about to be saved."""

    def __init__(self, path: Path, resident: Resident) -> None:
        super().__init__(path)
        self.resident, self.losses = resident, list[float]()
        self.weights: dict[str, Tensor] = {}

    def event(self, event: str, **fields: Any) -> None:
        if event == "step":
            self.losses.append(fields["loss"])
        if fields.get("phase") == "saving":
            self.weights = tiny.whole_weights(self.resident.model)


def the_sweep(stage: int) -> Sweep:
    """Eight training examples and batches of eight, so that every step sees the same."""
    asked = test_run.sweep(stage).model_dump()
    asked["data"]["limits"] = {"train": 8, "validation": 2, "test": 2}
    asked["evaluation"] = {"batch_size": 8, "generate": False}
    asked["training"] |= {"steps": STEPS, "checkpoint_steps": KEEP_EVERY}
    return Sweep.model_validate(asked)


def the_configuration(sweep: Sweep, name: str, tuner: str | None = None, **training: Any) -> Configuration:
    """Of a method by its name, or of one of PEFT's tuners."""
    options = ALL[name] if tuner is None else {"tuner": tuner, "options": TUNERS[tuner]}
    rate = {"learning_rate": 0.1 if name == "peft" else 3e-3}
    tuned = sweep.training.model_dump() | rate | training
    return Configuration.model_validate({"method": {"type": name, **options}, "training": tuned})


@cache
def the_base(stage: int) -> tuple[Resident, Accuracies, dict[str, Tensor], list[Any]]:
    """On each rank, once: the base model, its accuracies, all its weights, and what hangs on it.

    Every method is given the same one, which is what the contract is about.
    """
    resident = load_resident(the_sweep(stage), test_run.load)
    base = measure_base(resident).accuracies
    return resident, base, tiny.whole_weights(resident.model), test_run.traces(resident.model)


def changed(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, set[int]]:
    """The flat indices of the entries of base weights that are not what they were."""
    found = {n: (weights[n] != b).view(-1).nonzero().view(-1).tolist() for n, b in base.items() if n in weights}
    return {n: set(entries) for n, entries in found.items() if entries}


def digest(weights: Mapping[str, Tensor]) -> float:
    return sum(float(w.double().abs().sum()) for w in weights.values())


def try_method(name: str, stage: int, folder: Path) -> dict[str, Any]:
    """On each rank: a method three times, whole, again, and from its last checkpoint; what is to be seen of it."""
    resident, base, weights, before = the_base(stage)
    results, watches = [], []
    for turn in ("first", "again", "resumed"):
        path = folder / turn / "adapter.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        watch = Watch(path, resident)
        if turn == "resumed" and name != "vanilla":
            shutil.copy(watches[0].checkpoint, path.parent)
        result = execute(resident, the_configuration(resident.sweep, name), 1, base, watch)
        source = "checkpoint" if turn == "resumed" else "computed"
        assert result["scores"] == (source if method_spec(name).needs_gradients else None)
        assert tiny.same(tiny.whole_weights(resident.model), weights), "the base is restored"
        assert test_run.traces(resident.model) == before, "nothing is left behind"
        results.append({key: value for key, value in result.items() if key not in {*test_run.TIMES, "scores"}})
        watches.append(watch)
    return {
        "results": results,
        "losses": [watch.losses for watch in watches],
        "digests": [digest(watch.weights) for watch in watches],
        "changed": changed(watches[0].weights, weights),
        "failures": fail_in_turn(name, None, stage, folder) if alone_or_split(stage) else None,
    }


def alone_or_split(stage: int) -> bool:
    """The two ends between which the other cases lie: one whole model, and one that two ranks hold parts of."""
    return (torch.distributed.get_world_size(), stage) in {(1, 1), (2, 3)}


class Planted(Exception):
    """What no method expects."""


@contextmanager
def refused_half_way(model: nn.Module) -> Iterator[None]:
    """The second module of the base model that is to be replaced cannot be."""
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


def failing_in_a_step(resident: Resident) -> Resident:
    """The same, but the third micro-batch of a run has no loss."""
    copy, micro_batches = replace(resident), iter(range(100))

    def losses(*args: Any) -> Tensor:
        if next(micro_batches) == 2:
            raise Planted
        return resident.losses(*args)

    copy.__dict__["losses"] = losses
    return copy


def fail_in_turn(name: str, tuner: str | None, stage: int, folder: Path) -> list[str]:
    """On each rank: how a method ends that is refused half-way, that fails in the middle of a step, that diverges."""
    resident, base, weights, before = the_base(stage)
    run = partial(the_configuration, resident.sweep, name, tuner, steps=2, checkpoint_steps=None)
    ends = []
    for case, whole, configuration in (
        ("half-way", resident, run()),
        ("step", failing_in_a_step(resident), run()),
        ("divergence", resident, run(learning_rate=1e30)),
    ):
        (folder / case).mkdir(parents=True, exist_ok=True)
        reporter = Silent(folder / case / "adapter.safetensors")
        try:
            with refused_half_way(resident.model) if case == "half-way" else nullcontext():
                execute(whole, configuration, 1, base, reporter)
            ends.append("finished")
        except Exception as error:
            ends.append(type(error).__name__)
        assert tiny.same(tiny.whole_weights(resident.model), weights), f"the base is restored after {case}"
        assert test_run.traces(resident.model) == before, f"nothing is left behind after {case}"
    return ends


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_a_method_keeps_the_contract(ranks: Callable, tmp_path: Path, name: str, world: int, stage: int) -> None:
    what, *others = ranks(world)(try_method, name, stage, tmp_path)
    for other in others:
        assert other == what, "the ranks agree, in masks, weights and results"
    first, again, resumed = what["results"]
    assert first == again, "it repeats itself"
    assert first == resumed, "it resumes from a checkpoint as if nothing had been"
    assert len(set(what["digests"])) == 1, "it ends with the same weights"
    _check_reach(tmp_path, name, what)
    if what["failures"] is not None:
        _check_failures(name, *what["failures"])
    if name == "vanilla":
        return
    _check_adapters(tmp_path)
    losses, _, rest = what["losses"]
    assert losses[-1] < losses[0], "it learns"
    assert rest == losses[-len(rest) :], "it repeats its last losses"
    assert 0 < len(rest) < STEPS, "it did not start from the beginning"
    if world == 2 and name != "lora":  # LoRA's dropout differs with the number of ranks
        alone = ranks(1)(resume_alone, name, stage, tmp_path).pop()
        assert alone == pytest.approx(rest, abs=1e-4), "a checkpoint of two ranks is resumed with one"


def _check_failures(name: str, refused: str, in_a_step: str, at_1e30: str) -> None:
    replaces = not issubclass(METHODS[name], Vanilla | Full | WiseFt | Lines)
    assert refused == ("ValueError" if replaces else "finished")
    if name != "vanilla":
        assert in_a_step == "Planted"
        # DoRA scales directions, and the model's norms scale what comes of them: no number of it is infinite.
        assert at_1e30 in ({"Diverged", "finished"} if name == "dora" else {"Diverged"})


def try_tuner(tuner: str, folder: Path) -> tuple[list[float], list[str]]:
    """A tuner of PEFT: its losses, and how it ends when it must fail."""
    resident, base, weights, before = the_base(1)
    configuration = the_configuration(resident.sweep, "peft", tuner, steps=3, checkpoint_steps=None)
    watch = Watch(folder / "adapter.safetensors", resident)
    result = execute(resident, configuration, 1, base, watch)
    assert result["trained_parameters"] > 0
    assert changed(watch.weights, weights) == {}, "the base is as it was while it is measured"
    assert tiny.same(tiny.whole_weights(resident.model), weights), "the base is restored"
    assert test_run.traces(resident.model) == before, "nothing is left behind"
    return watch.losses, fail_in_turn("peft", tuner, 1, folder)


@pytest.mark.parametrize("tuner", TUNERS)
def test_a_tuner_of_peft_keeps_the_contract(ranks: Callable, tmp_path: Path, tuner: str) -> None:
    losses, (refused, step, _) = ranks(1)(try_tuner, tuner, tmp_path).pop()
    assert len(losses) == 3
    assert all(map(isfinite, losses))
    assert (refused, step) == ("ValueError", "Planted")


def drawn(tuner: str, seed: int) -> dict[str, Any]:
    """The options of a tuner that are seeds, as a run with this seed sets them."""
    method: Any = make_method(the_configuration(the_sweep(1), "peft", tuner).method)
    model = tiny.model()
    torch.manual_seed(seed)
    config = vars(method.config(model))
    return {name: value for name, value in config.items() if name.endswith(("seed", "prng_key"))}


def test_what_a_tuner_draws_follows_the_seed_of_the_run() -> None:
    seeded = {tuner: drawn(tuner, 5) for tuner in TUNERS if drawn(tuner, 5)}
    assert seeded.keys() >= {"shira", "vera", "randlora", "fourierft", "waveft", "tinylora", "unilora"}
    assert seeded.pop("pvera") == {"projection_prng_key": 5, "generator_seed": None}
    assert {value for options in seeded.values() for value in options.values()} == {5}
    spec = PeftSpec(tuner="shira", options={"r": 2, "random_seed": 7})
    assert make_method(spec).config(tiny.model()).random_seed == 7  # type: ignore[union-attr]


def _check_adapters(folder: Path) -> None:
    saved = [load_file(folder / turn / "adapter.safetensors") for turn in ("first", "again", "resumed")]
    assert tiny.same(saved[0], saved[1]), "it repeats its adapter"
    assert tiny.same(saved[0], saved[2]), "it resumes to the same adapter"


def _check_reach(folder: Path, name: str, what: Mapping[str, Any]) -> None:
    """Only what a method may change has changed."""
    result, method = what["results"][0], METHODS[name]
    if issubclass(method, PeftMethod | Vanilla):
        assert what["changed"] == {}
    elif issubclass(method, MaskMethod):
        adapter = load_file(folder / "first" / "adapter.safetensors")
        touched = {n.removesuffix(".indices"): set(t.tolist()) for n, t in adapter.items() if n.endswith(".indices")}
        assert sum(map(len, touched.values())) == result["mask"]["touched"]
        assert all(entries <= touched[n] for n, entries in what["changed"].items())
        assert result["mask"]["chosen"] == result["trained_parameters"]
        assert (result["mask"]["touched"] > result["mask"]["chosen"]) == issubclass(method, RefreshedMethod)
        assert sum(result["mask"]["magnitudes"]["chosen"]) == result["mask"]["chosen"]


def resume_alone(name: str, stage: int, folder: Path) -> list[float]:
    """On one rank: the losses after resuming what two ranks have left."""
    resident, base, *_ = the_base(stage)
    there, path = folder / "first", folder / "alone" / "adapter.safetensors"
    path.parent.mkdir()
    shutil.copy(there / "checkpoint.safetensors", path.parent)
    watch = Watch(path, resident)
    execute(resident, the_configuration(resident.sweep, name), 1, base, watch)
    torch.testing.assert_close(*map(_values, (there / "adapter.safetensors", path)), atol=3e-4, rtol=0)
    return watch.losses


def _values(adapter: Path) -> dict[str, Tensor]:
    return {n: t for n, t in load_file(adapter).items() if not n.endswith(".indices")}
