"""A sequence: each stage is, bit for bit, a run on what the stages before have trained; the base comes back."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from safetensors.torch import load_file

from gallop_ray.disk.tensors import ADAPTER, metadata_of
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.slots.rounds import execute_rounds
from gallop_ray.sparse.base_state import base_hash
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.sequence import transfer
from gallop_ray.testing.model import whole_weights
from gallop_ray.training.context import NullReporter
from gallop_ray.training.merged import merged
from gallop_ray.training.resident import load_base_model
from gallop_ray.training.run import execute, measure_base
from tests.training import test_rounds, test_run, tiny

TASKS, OOD, SEED = ["second", "max", "third"], ["first"], 1
METHODS: Mapping[str, dict[str, Any]] = {
    "gallop": {"density": 0.05, "selection_ratio": 0.5},
    "lora": {"dropout": 0.1},
    "full": {},
    "hybrid": {"density": 0.2, "parts": [{"type": "random"}, {"type": "lora", "rank": 2}]},
    "vanilla": {},
}


def the_sweep(stage: int, **data: Any) -> Sweep:
    asked = test_rounds.the_sweep(stage, TASKS, OOD).model_dump()
    asked["data"] |= {"sequence": True, "limits": {"train": 24, "validation": 10, "test": 10}, **data}
    asked["evaluation"] |= {"generate": False}
    return Sweep.model_validate(asked)


def try_stages(stage: int, methods: list[str], folder: Path) -> dict[str, Any]:
    """On each rank: every method in sequence, and its second stage as a run on the model that the first has trained."""
    resident = replace(load_base_model(the_sweep(stage), test_run.load), scores=folder / "scores")
    weights, base = whole_weights(resident.model), measure_base(resident).accuracies
    seen: dict[str, Any] = {"sequence": {}, "alone": {}}
    for name in methods:
        options, run = METHODS[name], RunFolder(folder / name / f"seed-{SEED}")
        run.path.mkdir(parents=True, exist_ok=True)
        chosen = test_run.configuration(resident, name, options)
        seen["sequence"][name] = execute_rounds(resident, chosen, SEED, base, run)
        assert tiny.same(weights, whole_weights(resident.model)), f"{name} has left the base as it was"
        assert measure_base(resident).accuracies == base
        first = run.round("second").adapter

        def of_second_stage(spec: Any, first: Path = first) -> tuple[Any, Any]:
            model, tokenizer = test_run.load(spec)
            return merged(model, [first] if first.exists() else []), tokenizer

        alone = load_base_model(
            the_sweep(stage, train="max", sequence=False, ood=["second", "third", "first"]), of_second_stage
        )
        path = folder / name / "alone" / ADAPTER
        path.parent.mkdir(exist_ok=True)
        seen["alone"][name] = execute(alone, chosen, SEED, base, NullReporter(path))
    return seen


@pytest.mark.parametrize(
    ("stage", "methods"), [(1, [each for each in METHODS if each != "full"]), (3, ["gallop", "full"])]
)
def test_a_stage_is_a_run_on_what_the_stages_before_have_trained(
    ranks: Callable, tmp_path: Path, stage: int, methods: list[str]
) -> None:
    seen, _ = ranks(2)(try_stages, stage, methods, tmp_path)
    for name in methods:
        whole, alone, run = seen["sequence"][name], seen["alone"][name], tmp_path / name / f"seed-{SEED}"
        after, last = whole["rounds"]["max"], whole["rounds"]["third"]
        assert after["accuracy"] == {task: alone["tasks"][task]["test"]["likelihood"] for task in TASKS}
        assert after["id_accuracy"] == alone["id_accuracy"]
        assert after["ood_accuracy"] == alone["tasks"]["first"]["test"]["likelihood"]
        assert whole["id_accuracy"] == pytest.approx(fmean(last["accuracy"].values()))
        assert whole["ood_accuracy"] == pytest.approx(last["ood_accuracy"]), "what the last stage has left"
        assert list(whole["correct"]) == [f"{a}/{b}" for a in TASKS for b in (a, "first")]
        if name == "vanilla":
            continue
        paths = (run / "max" / ADAPTER, tmp_path / name / "alone" / ADAPTER)
        assert tiny.same(*map(load_file, paths))
        model = merged(test_run.load(the_sweep(1).model)[0], [run / task / ADAPTER for task in TASKS[:2]])
        assert metadata_of(run / "third" / ADAPTER)["base_hash"] == base_hash(model), "and not the base's own"
    assert seen["sequence"]["gallop"]["scores"] == "computed", "scores of another base are other scores"
    if "vanilla" in methods:
        still = seen["sequence"]["vanilla"]
        assert still["backward_transfer"] == 0 == still["sequence_forgetting"]


def try_cut(stage: int, folder: Path) -> dict[str, Any]:
    """On each rank: an uncut run, and one that is cut off in its second stage and goes on."""
    resident = load_base_model(the_sweep(stage), test_run.load)
    base, weights, seen = measure_base(resident).accuracies, whole_weights(resident.model), {}
    chosen = test_run.configuration(resident, "gallop", METHODS["gallop"])
    for name in ("uncut", "cut"):
        run = RunFolder(folder / name / f"seed-{SEED}")
        run.start({}, "slot-0")
        if name == "cut":
            in_second = lambda e: e["event"] == "validation" and e["step"] == 7  # noqa: E731
            with pytest.raises(test_rounds.CutOffError), test_rounds.cut_off(in_second):
                execute_rounds(resident, chosen, SEED, base, run)
            assert tiny.same(weights, whole_weights(resident.model))
            run.start({}, "slot-0")
        seen[name] = test_rounds.outcome(execute_rounds(resident, chosen, SEED, base, run))
    return seen


def test_a_sequence_that_is_cut_off_goes_on_with_its_stage(ranks: Callable, tmp_path: Path) -> None:
    (seen,) = ranks(1)(try_cut, 1, tmp_path)
    assert seen["cut"] == seen["uncut"]
    for task in TASKS:
        saved = (tmp_path / each / f"seed-{SEED}" / task / "adapter.safetensors" for each in ("uncut", "cut"))
        assert tiny.same(*map(load_file, saved))


def try_damage(folder: Path) -> dict[str, Any]:
    """On one rank: the first stage's adapter is lost before the second begins, or holds other numbers."""
    resident = load_base_model(the_sweep(1), test_run.load)
    base, weights, seen = measure_base(resident).accuracies, whole_weights(resident.model), {}
    chosen = test_run.configuration(resident, "gallop", METHODS["gallop"])
    for name in ("whole", "short", "changed"):
        run = RunFolder(folder / name / f"seed-{SEED}")
        run.start({}, "slot-0")
        with test_rounds.cut_off(lambda e: e.get("round") == "max"), pytest.raises(test_rounds.CutOffError):
            execute_rounds(resident, chosen, SEED, base, run)
        adapter = run.round("second").adapter
        content = adapter.read_bytes()
        damaged = {"whole": content, "short": content[:-1], "changed": content[:-1] + bytes([content[-1] ^ 1])}
        adapter.write_bytes(damaged[name])
        try:
            seen[name] = test_rounds.outcome(execute_rounds(resident, chosen, SEED, base, run))
        except ValueError as error:
            seen[name] = str(error)
        assert tiny.same(weights, whole_weights(resident.model))
    return seen


def test_a_stage_that_was_lost_is_run_again_and_one_with_other_numbers_is_named(
    ranks: Callable, tmp_path: Path
) -> None:
    (seen,) = ranks(1)(try_damage, tmp_path)
    assert seen["short"] == seen["whole"]
    assert "changed/seed-1/second/adapter.safetensors" in seen["changed"]


def test_transfer_and_forgetting_by_hand() -> None:
    matrix = [[0.8, 0.1, 0.2], [0.6, 0.9, 0.3], [0.7, 0.5, 0.6]]
    known = {
        stage: {task: {"test": {"likelihood": value}} for task, value in zip("abc", row, strict=True)}
        for stage, row in zip("abc", matrix, strict=True)
    }
    found = transfer(known)
    assert found["backward_transfer"] == pytest.approx(((0.7 - 0.8) + (0.5 - 0.9)) / 2)
    assert found["sequence_forgetting"] == pytest.approx(((0.8 - 0.7) + (0.9 - 0.5)) / 2)
    assert found["val_backward_transfer"] is None
