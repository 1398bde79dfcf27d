"""The score store: what comes out of it is what a run would have computed, and is computed once."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gallop_ray.methods import MaskMethod, make_method
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.spec.method import GradientMethodSpec, LoraRank
from gallop_ray.spec.schema import Sweep
from gallop_ray.training.draw import draw
from gallop_ray.training.resident import LoadedModel
from gallop_ray.training.scoring import _Scoring
from gallop_ray.training.selection import select
from tests.training import tiny

Options = dict[str, Any]
Chosen = dict[str, list[int]]
RATIOS = (0.1, 0.5, 1.0)
DENSITIES = (0.01, 0.0137, 0.0555, 0.1)
METHODS_HERE: tuple[Options, ...] = (
    {"type": "gallop", "selection_ratio": 0.5},
    {"type": "gallop", "name": "layers", "selection_ratio": 0.5, "scope": "per_layer", "gradient_exponent": 2.0},
    {"type": "saft", "selection_ratio": 0.5, "scope": "per_matrix"},
    {"type": "snip", "selection_ratio": 0.5, "scope": "per_layer", "target_modules": tiny.EVERYWHERE},
    {"type": "sift"},
    {"type": "sift", "name": "share", "selection_ratio": 0.5},
    {"type": "smt", "selection_ratio": 0.5, "block_size": 4, "scope": "per_matrix"},
)


class Events:
    """A reporter that keeps the phases and where the scores came from."""

    adapter = checkpoint = Path("nowhere")

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.sources: list[str] = []

    def event(self, event: str, **fields: Any) -> None:
        if event == "phase":
            self.phases.append(fields["phase"])
        if event == "scores":
            self.sources.append(fields["source"])


def resident(folder: Path | None, methods: Sequence[Options], space: Options, stage: int = 1) -> LoadedModel:
    asked = tiny.sweep(stage).model_dump() | {"methods": methods, "search": {"space": space}}
    return replace(tiny.resident(Sweep.model_validate(asked)), scores=folder)


def choose(whole: LoadedModel, options: Options, seed: int = 3) -> tuple[Chosen, str, int]:
    """A run's mask, where its scores came from, and how often it entered the phase of scoring."""
    events = Events()
    context = tiny.context(whole, seed, events, options)
    method: Any = make_method(context.configuration.method)
    selection = select(context, find_candidates(whole.model, method.spec.target_modules), method)
    assert events.sources == [selection.scores]
    found = {name: indices.tolist() for name, indices in selection.mask.indices.items()}
    return found, events.sources[0], events.phases.count("scoring")


def all_masks(stage: int, folder: Path | None) -> tuple[dict[tuple[str, float], Chosen], set[str]]:
    """On each rank: the masks of all methods at all densities, and where their scores came from."""
    whole = resident(folder, METHODS_HERE, {"method.density": {"log": [DENSITIES[0], DENSITIES[-1]]}}, stage)
    found, sources = {}, set()
    for options, density in product(METHODS_HERE, DENSITIES[1:]):
        mask, source, _ = choose(whole, {**options, "density": density})
        found[options.get("name", options["type"]), density] = mask
        sources.add(source)
    return found, sources


@pytest.mark.parametrize("stage", [1, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize(("writers", "readers"), [(1, 2), (2, 1)])
def test_stored_masks_are_those_of_a_cold_selection(
    ranks: Callable, tmp_path: Path, writers: int, readers: int, stage: int
) -> None:
    cold, sources = ranks(readers)(all_masks, stage, None)[0]
    assert sources == {"computed"}
    assert len({str(mask) for mask in cold.values()}) == len(cold), "they can be told apart"
    for masks, sources in ranks(writers)(all_masks, stage, tmp_path):
        assert masks == cold
        assert sources == {"computed", "store"}
    for masks, sources in ranks(readers)(all_masks, stage, tmp_path):
        assert masks == cold
        assert sources == {"store"}


def climb(folder: Path, ratios: Sequence[float]) -> list[str]:
    """On each rank: where the scores of one ratio after another came from."""
    gallop = {"type": "gallop", "density": 0.05}
    whole = resident(folder, [gallop], {"method.selection_ratio": {"choice": RATIOS}})
    return [choose(whole, {**gallop, "selection_ratio": ratio})[1] for ratio in ratios]


def contents(folder: Path) -> dict[str, dict[str, bytes]]:
    """By file, the bytes of its tensors; the order of their names in the file is a matter of chance."""
    files = {path.name: load_file(path) for path in folder.glob("*.safetensors")}
    return {name: {key: t.numpy().tobytes() for key, t in tensors.items()} for name, tensors in files.items()}


@pytest.mark.parametrize("world", [1, 2])
def test_continued_sums_give_the_bits_of_one_pass(ranks: Callable, tmp_path: Path, world: int) -> None:
    steps, leap = tmp_path / "steps", tmp_path / "leap"
    assert ranks(world)(climb, steps, RATIOS[:2]) == [["computed", "continued"]] * world
    assert len(list(steps.glob("*.sums"))) == 1, "a larger ratio may go on from there"
    assert ranks(world)(climb, steps, RATIOS[2:]) == [["continued"]] * world
    assert not list(steps.glob("*.sums")), "nothing larger is to come"
    assert ranks(world)(climb, leap, RATIOS[::-1]) == [["computed", "store", "store"]] * world
    assert len(contents(leap)) == len(RATIOS)
    assert contents(steps) == contents(leap)


def test_sums_of_two_ranks_are_continued_by_one_and_damaged_ones_are_not(ranks: Callable, tmp_path: Path) -> None:
    for name in ("whole", "damaged"):
        ranks(2)(climb, tmp_path / name, RATIOS[:1])
    assert ranks(1)(climb, tmp_path / "whole", RATIOS[1:2]) == [["continued"]]
    victim = next((tmp_path / "damaged").glob("*.sums/3.safetensors"))
    victim.write_bytes(victim.read_bytes()[:-1])
    assert ranks(1)(climb, tmp_path / "damaged", RATIOS[1:2]) == [["computed"]]


def flip(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.mark.parametrize("harm", [flip, lambda content: content[:-1], lambda content: b""], ids=["bit", "cut", "empty"])
def test_a_damaged_ranking_is_computed_again_and_replaced(ranks: Callable, tmp_path: Path, harm: Callable) -> None:
    ranks(2)(climb, tmp_path, RATIOS[-1:])
    before = contents(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(harm(path.read_bytes()))
    assert ranks(2)(climb, tmp_path, [RATIOS[-1], RATIOS[-1]]) == [["computed", "store"]] * 2
    assert contents(tmp_path) == before


def of_density(folder: Path, density: float | LoraRank) -> tuple[Chosen, str, int]:
    gallop = {"type": "gallop", "density": density}
    return choose(resident(folder, [gallop], {}), gallop)


def of_one_module(folder: Path) -> tuple[Chosen, str, int]:
    few = {"type": "gallop", "name": "few", "density": 0.01, "target_modules": ["k_proj"]}
    return choose(resident(folder, [{"type": "gallop", "density": 0.3}, few], {}), few)


def test_a_density_that_only_other_modules_can_hold_is_not_asked_of_these(ranks: Callable, tmp_path: Path) -> None:
    chosen, source, _ = ranks(1)(of_one_module, tmp_path)[0]
    assert source == "computed"
    assert all(name.endswith("k_proj") for name in chosen)


def test_a_ranking_too_small_is_replaced_by_one_that_serves_both(ranks: Callable, tmp_path: Path) -> None:
    alone = ranks(1)
    small, _, _ = alone(of_density, tmp_path, 0.01)[0]
    assert alone(of_density, tmp_path, LoraRank(lora_rank=4))[0][1] == "computed"
    assert alone(of_density, tmp_path, 0.01)[0] == (small, "store", 0)


@pytest.mark.parametrize("world", [1, 2])
def test_a_folder_that_takes_nothing_costs_time_only(ranks: Callable, tmp_path: Path, world: int) -> None:
    (tmp_path / "file").touch()
    good = ranks(world)(of_density, tmp_path / "folder", 0.05)
    assert ranks(world)(of_density, tmp_path / "file", 0.05) == good


def meet_and_choose(folder: Path, name: str, other: str) -> tuple[Chosen, str, int]:
    (folder / name).touch()
    while not (folder / other).exists():
        time.sleep(0.001)
    return of_density(folder / "scores", 0.05)


def test_of_two_at_once_one_computes(ranks: Callable, tmp_path: Path) -> None:
    groups = ranks(1), ranks(2)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(groups[0], meet_and_choose, tmp_path, "one", "two")
        second = threads.submit(groups[1], meet_and_choose, tmp_path, "two", "one")
        results = [first.result()[0], second.result()[0]]
    assert sorted(source for _, source, _ in results) == ["computed", "store"]
    assert results[0][0] == results[1][0]


def a_sweep(folder: Path, methods: Sequence[Options]) -> dict[str, list[tuple[str, int]]]:
    """On each rank: 12 configurations of each method with 2 seeds; by method, sources and entries into scoring."""
    ratio, density = {"choice": RATIOS}, {"choice": DENSITIES}
    whole = resident(folder, methods, {"method.density": density, "method.selection_ratio": ratio})
    found: dict[str, list[tuple[str, int]]] = {}
    for options, *values, seed in product(methods, DENSITIES, RATIOS, (0, 1)):
        point = {**options, "density": values[0], "selection_ratio": values[1]}
        found.setdefault(options["type"], []).append(choose(whole, point, seed)[1:])
    return found


@pytest.mark.parametrize("world", [1, 2])
def test_a_sweep_goes_through_its_examples_once(ranks: Callable, tmp_path: Path, world: int) -> None:
    methods = [{"type": name} for name in ("gallop", "saft", "snip")]
    for found in ranks(world)(a_sweep, tmp_path, methods):
        gallop = [source for source, _ in found["gallop"]]
        assert len(gallop) == 24
        assert 24 - gallop.count("store") <= 6
        assert sum(passes for _, passes in found["gallop"]) == 6, "three rungs for each of two seeds"
        for name in ("saft", "snip"):
            assert found[name] == [("store", 0)] * 24, "gallop's pass served them, too"


def searched_formula(folder: Path) -> list[str]:
    gallop = {"type": "gallop", "density": 0.05}
    whole = resident(folder, [gallop], {"method.eps": {"choice": [1e-8, 1e-3]}})
    return [choose(whole, {**gallop, **options})[1] for options in ({}, {"eps": 1e-3}, {"zero_guard": "none"}, {})]


def test_another_formula_is_another_ranking(ranks: Callable, tmp_path: Path) -> None:
    assert ranks(1)(searched_formula, tmp_path) == [["computed", "computed", "computed", "store"]]


def random_state_after(folder: Path) -> list[Any]:
    gallop = {"type": "gallop", "density": 0.05}
    whole, states = resident(folder, [gallop], {}, stage=3), []
    for source in ("computed", "store"):
        assert choose(whole, gallop)[1] == source
        states.append(torch.get_rng_state().tolist())
    return states


def test_training_begins_alike_with_and_without_a_pass(ranks: Callable, tmp_path: Path) -> None:
    computed, stored = ranks(1)(random_state_after, tmp_path)[0]
    assert computed == stored


def keys_by_attention(folder: Path) -> list[str]:
    found = []
    for attention in ("sdpa", "eager", "sdpa"):
        whole = resident(folder, [{"type": "saft"}], {})
        whole.model.set_attn_implementation(attention)  # type: ignore[operator]
        context = tiny.context(whole, method={"type": "saft"})
        method: Any = make_method(context.configuration.method)
        candidates = find_candidates(whole.model)
        scoring = _Scoring(context, candidates, method, method.quotas(candidates, whole.parameters))
        found.append(scoring.key(method.spec, scoring.rung))
    return found


def test_another_attention_has_scores_of_its_own(ranks: Callable, tmp_path: Path) -> None:
    sdpa, eager, again = ranks(1)(keys_by_attention, tmp_path).pop()
    assert sdpa == again != eager


class OwnMethod(MaskMethod):
    """A method from outside the package, whose score may draw."""


class OwnSpec(GradientMethodSpec):
    """Its options."""

    implementation: ClassVar[Any] = OwnMethod
    type: Literal["own"] = "own"


def keys_by_seed(folder: Path) -> dict[str, list[str]]:
    """The keys at two seeds of rankings of all examples, which are the same ones at both."""
    gallop = {"type": "gallop", "selection_ratio": 1.0}
    whole, found = resident(folder, [gallop], {}), {"gallop": [], "own": []}  # type: ignore[var-annotated]
    candidates = find_candidates(whole.model)
    for seed in (0, 1):
        context = tiny.context(whole, seed, method=gallop)
        method: Any = make_method(context.configuration.method)
        scoring = _Scoring(context, candidates, method, method.quotas(candidates, whole.parameters))
        found["gallop"].append(scoring.key(method.spec, scoring.rung))
        found["own"].append(scoring.key(OwnSpec(name="own", selection_ratio=1.0), scoring.rung))
    return found


def test_a_ranking_is_of_its_seed_where_the_score_may_draw(ranks: Callable, tmp_path: Path) -> None:
    found = ranks(1)(keys_by_seed, tmp_path).pop()
    assert found["gallop"][0] == found["gallop"][1], "its examples and weights are the same ones"
    assert found["own"][0] != found["own"][1]


class OfDensity(MaskMethod):
    """Another formula for small densities."""

    Options = GradientMethodSpec

    def score(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        assert gradient is not None
        return gradient.abs() if self.spec.density < 0.03 else (gradient * weight).abs()


def by_density(folder: Path | None) -> list[tuple[Chosen, str]]:
    own = {"type": "tests.training.test_score_store:OfDensity", "selection_ratio": 0.5}
    whole = resident(folder, [own], {"method.density": {"choice": [0.02, 0.05]}})
    return [choose(whole, {**own, "density": density})[:2] for density in (0.05, 0.02, 0.05)]


def test_a_score_that_reads_the_density_is_stored_by_it(ranks: Callable, tmp_path: Path) -> None:
    cold, kept = (ranks(1)(by_density, folder).pop() for folder in (None, tmp_path))
    assert [mask for mask, _ in kept] == [mask for mask, _ in cold]
    assert [source for _, source in kept] == ["computed", "store", "store"], "one pass ranks both"


def first_micro_batches() -> list[list[int]]:
    """The examples that sift scores: as asked for, and with micro-batches halved to fit into memory."""
    sift = {"type": "sift", "first": "micro_batch"}
    whole = resident(None, [sift], {})
    contexts = [tiny.context(whole, method=sift, micro_batch_size=size) for size in (2, 1)]
    return [draw(context, context.configuration.method).order for context in contexts]  # type: ignore[arg-type]


def test_smaller_micro_batches_score_the_same_first_one(ranks: Callable) -> None:
    asked, halved = ranks(1)(first_micro_batches).pop()
    assert len(asked) == 2
    assert halved == asked
