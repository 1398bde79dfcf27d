"""What every method must keep to, on real ranks at ZeRO 1 and 3; the suite itself is gallop_ray.testing."""

from collections.abc import Callable, Iterator
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from gallop_ray.methods import make_method
from gallop_ray.spec.method import MaskMethodSpec
from gallop_ray.spec.other_methods import PeftSpec
from gallop_ray.spec.peft_tuners import REFUSED, WORKING
from gallop_ray.spec.registry import method_spec, method_types
from gallop_ray.testing import CASES, Case, check_case
from gallop_ray.testing.contract import Asked, Watch, changed, the_base, the_configuration
from gallop_ray.testing.failures import fail_in_turn
from gallop_ray.testing.model import EVERYWHERE, same, traces, whole_weights
from gallop_ray.training.run import execute
from tests.training import tiny

OPTIONS: dict[str, dict[str, Any]] = {
    "gallop": {"density": 0.05, "selection_ratio": 0.5},
    "saft": {"density": {"lora_rank": 2}, "selection_ratio": 0.5, "scope": "per_layer"},
    "gem": {"density": 0.05, "selection_ratio": 0.5},
    "sift": {"density": 0.05},
    "snip": {"density": 0.05, "selection_ratio": 0.5, "scope": "per_matrix", "target_modules": EVERYWHERE},
    "magnitude": {"density": 0.05, "choose": "lowest"},
    "random": {"density": 0.05},
    "smt": {"density": 0.05, "selection_ratio": 0.5, "block_size": 8},
    "sara": {"density": 0.05},
    "lift": {"density": {"lora_rank": 2}, "rank": 4, "refresh_every": 2},
    "spiel": {
        **{"density": 0.05, "refresh_every": 4, "accumulate": 2, "initial_rate": 0.5, "delta_decay": 0.01},
        "target_modules": EVERYWHERE,
    },
    "lora": {"rank": 2, "dropout": 0.1},
    "dora": {"rank": 2},
    "peft": {"tuner": "ia3", "options": {"feedforward_modules": []}},
    "hybrid": {"parts": [{"type": "gallop", "density": 0.03, "selection_ratio": 0.5}, {"type": "lora", "rank": 2}]},
    "rosa": {"density": 0.1, "rank": 2, "warmup_steps": 2},
    "lt_sft": {"density": 0.05, "warmup_steps": 2},
    "s2ft": {"density": 0.05, "target_modules": ["*_proj"]},
    "gasdu": {"density": 0.05, "refresh_every": 2},
    "full": {},
    "wise_ft": {"alpha": 0.7},
    "lines": {"first": 0.25},
    "vanilla": {},
}
TUNERS: dict[str, dict[str, Any]] = {tuner: {} for tuner in WORKING} | {
    "adalora": {"init_r": 3, "target_r": 2},
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
ALWAYS = ("ia3", "oft", "osf", "vera")
"""One that scales, one that turns, one that takes weights apart, one with shared parts; the others are long tests."""


def test_every_tuner_of_this_version_works_or_is_refused() -> None:
    assert not set(WORKING) & REFUSED.keys()
    assert {*WORKING, *REFUSED} == {kind.value.lower() for kind in peft.PEFT_TYPE_TO_CONFIG_MAPPING}


def asked(name: str) -> tuple[str, dict[str, Any], float]:
    """A method with options for weights as small as these; one that is not listed takes its own."""
    spec = method_spec(name)
    usual = {"density": 0.05, "selection_ratio": 0.5} if issubclass(spec, MaskMethodSpec) else {}
    options = OPTIONS.get(name, {field: value for field, value in usual.items() if field in spec.model_fields})
    return name, options, 0.1 if name == "peft" else 3e-3


ON_TWO_RANKS = ("gallop", "grasp", "synflow", "smt", "lift", "spiel", "lora", "full", "vanilla")
"""One of each kind of what happens on two ranks; there the other methods, which share it with these, are long tests."""


def trials() -> Iterator[Any]:
    """Every method on one rank and on two."""
    for name in method_types():
        for case in CASES:
            place, rare = f"{case.world} at ZeRO {case.stage}", case.world > 1 and name not in ON_TWO_RANKS
            yield pytest.param(name, case, id=f"{name}-{place}", marks=[pytest.mark.long] * rare)


@pytest.mark.parametrize(("name", "case"), trials())
def test_a_method_keeps_the_contract(name: str, case: Case) -> None:
    kind, options, rate = asked(name)
    check_case(case, kind, options, learning_rate=rate)


@pytest.mark.parametrize("name", ["gallop", "spiel", "lora", "full"])
def test_between_the_ends_a_method_of_each_family_keeps_it(name: str) -> None:
    kind, options, rate = asked(name)
    check_case(Case(2, 1), kind, options, learning_rate=rate)


def test_spiel_keeps_it_also_by_accumulators() -> None:
    check_case(Case(2, 3), "spiel", {**OPTIONS["spiel"], "variant": "ma"})


def try_tuner(tuner: str, folder: Path) -> tuple[list[float], list[str]]:
    """A tuner of PEFT: its losses, and how it ends when it must fail."""
    resident, base, weights, before = the_base(1)
    configured = partial(the_configuration, Asked("peft", {"tuner": tuner, "options": TUNERS[tuner]}, 0.1))
    configuration = configured(steps=3, checkpoint_steps=None)
    watch = Watch(folder / "adapter.safetensors", resident)
    result = execute(resident, configuration, 1, base, watch)
    assert result["trained_parameters"] > 0
    assert changed(watch.weights, weights) == {}, "the base is as it was while it is measured"
    assert same(whole_weights(resident.model), weights), "the base is restored"
    assert traces(resident.model) == before, "nothing is left behind"
    return watch.losses, fail_in_turn(resident, base, configured, folder)


@pytest.mark.parametrize(
    "tuner", [pytest.param(each, marks=[pytest.mark.long] * (each not in ALWAYS)) for each in TUNERS]
)
def test_a_tuner_of_peft_keeps_the_contract(ranks: Callable, tmp_path: Path, tuner: str) -> None:
    losses, (refused, step, _) = ranks(1)(try_tuner, tuner, tmp_path).pop()
    assert len(losses) == 3
    assert all(map(isfinite, losses))
    assert (refused, step) == ("ValueError", "Planted")


def drawn(tuner: str, seed: int) -> dict[str, Any]:
    """The options of a tuner that are seeds, as a run with this seed sets them."""
    method: Any = make_method(the_configuration(Asked("peft", {"tuner": tuner, "options": TUNERS[tuner]})).method)
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
