"""Rounds: a run on several tasks in turn is, bit for bit, a run on each of them, and goes on where it was cut off."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from safetensors.torch import load_file

from gallop_ray.analysis.paired import p_worse
from gallop_ray.records.events import Step
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.slots.rounds import execute_rounds
from gallop_ray.spec.schema import Sweep
from gallop_ray.training.context import NullReporter
from gallop_ray.training.resident import LoadedModel, load_base_model
from gallop_ray.training.run import execute, measure_base
from tests.training import test_run, tiny

TRAIN, OOD, SEED = ["second", "max"], ["first"], 1
METHODS: Mapping[str, dict[str, Any]] = {"gallop": {"density": 0.05, "selection_ratio": 0.5}, "lora": {"dropout": 0.1}}
VARYING = {*test_run.TIMES, "scores"}


def the_sweep(stage: int, train: Any, ood: list[str]) -> Sweep:
    asked = test_run.sweep(stage).model_dump()
    asked["data"] |= {"train": train, "ood": ood, "limits": {"train": 24, "validation": 20, "test": 20}}
    asked["training"] |= {"checkpoint_steps": 2, "validate_steps": 1, "keep": "best"}
    return Sweep.model_validate(asked)


def outcome(result: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in VARYING}


def try_rounds(stage: int, folder: Path) -> dict[str, Any]:
    """On each rank: every method on both tasks in turn, and on each of them alone, with one score store."""
    shared = {"scores": folder / "scores"}
    resident = replace(load_base_model(the_sweep(stage, TRAIN, OOD), test_run.load), **shared)
    base = measure_base(resident).accuracies
    seen: dict[str, Any] = {"base": base, "rounds": {}, "alone": {}}
    for name, options in METHODS.items():
        run = RunFolder(folder / name / f"seed-{SEED}")
        run.path.mkdir(parents=True, exist_ok=True)
        chosen = test_run.configuration(resident, name, options)
        seen["rounds"][name] = execute_rounds(resident, chosen, SEED, base, run)
    for task in TRAIN:
        others = [each for each in TRAIN if each != task]
        alone = replace(load_base_model(the_sweep(stage, task, others + OOD), test_run.load), **shared)
        assert {name: measure_base(alone).accuracies[name] for name in base} == base, "the base is measured once"
        for name, options in METHODS.items():
            chosen = test_run.configuration(alone, name, options)
            path = folder / name / f"{task}.safetensors"
            seen["alone"][f"{name}/{task}"] = execute(alone, chosen, SEED, base, NullReporter(path))
            (folder / name / "checkpoint.safetensors").unlink(missing_ok=True)
    return seen


@pytest.mark.long
@pytest.mark.parametrize("stage", [1, 3])
def test_rounds_are_the_runs_on_each_task(ranks: Callable, tmp_path: Path, stage: int) -> None:
    seen, _ = ranks(2)(try_rounds, stage, tmp_path)
    for name in METHODS:
        whole = seen["rounds"][name]
        alone = {task: seen["alone"][f"{name}/{task}"] for task in TRAIN}
        for key in ("id_accuracy", "ood_accuracy", "forget_ratio", "val_mean_accuracy", "id_accuracy_generated"):
            assert whole[key] == fmean(result[key] for result in alone.values())
            assert {task: each[key] for task, each in whole["rounds"].items()} == {t: r[key] for t, r in alone.items()}
        assert whole["steps"] == sum(result["steps"] for result in alone.values())
        assert list(whole["correct"]) == [f"{t}/{each}" for t in TRAIN for each in dict.fromkeys([*TRAIN, *OOD])]
        for task in TRAIN:
            saved = load_file(tmp_path / name / f"seed-{SEED}" / task / "adapter.safetensors")
            assert tiny.same(saved, load_file(tmp_path / name / f"{task}.safetensors"))
            assert whole["rounds"][task]["best_step"] == alone[task]["best_step"]
            for other, splits in alone[task]["correct"].items():
                assert whole["correct"][f"{task}/{other}"] == splits
    # Each task has scores of its own, which a sweep on that task alone finds again.
    assert seen["rounds"]["gallop"]["scores"] == "computed"
    assert {seen["alone"][f"gallop/{task}"]["scores"] for task in TRAIN} == {"store"}
    masks = [load_file(tmp_path / "gallop" / f"seed-{SEED}" / task / "adapter.safetensors") for task in TRAIN]
    assert not tiny.same(*({n: t for n, t in each.items() if n.endswith("indices")} for each in masks))


class CutOffError(Exception):
    """Stands for a kill."""


@contextmanager
def cut_off(when: Callable[[Mapping[str, Any]], bool]) -> Iterator[None]:
    """While this is open a run dies as soon as it reports such an event."""
    whole = RunFolder.event

    def event(self: RunFolder, event: str, **fields: Any) -> None:
        if when({"event": event, **fields}):
            raise CutOffError
        whole(self, event, **fields)

    RunFolder.event = event  # type: ignore[method-assign]
    try:
        yield
    finally:
        RunFolder.event = whole  # type: ignore[method-assign]


CUTS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "between two rounds": lambda e: e.get("round") == "max",
    "in a round": lambda e: e["event"] == "validation" and e["step"] == 7,
}


def try_cuts(folder: Path) -> dict[str, Any]:
    """On one rank: an uncut run, and runs that are cut off and go on; what they end with and what they did again."""
    resident: LoadedModel = load_base_model(the_sweep(1, TRAIN, OOD), test_run.load)
    base, seen = measure_base(resident).accuracies, {}
    chosen = test_run.configuration(resident, "gallop", METHODS["gallop"])
    for name, when in {"": lambda e: False, **CUTS}.items():
        run = RunFolder(folder / (name or "uncut") / f"seed-{SEED}")
        run.start({}, "slot-0")
        if name:
            with pytest.raises(CutOffError), cut_off(when):
                execute_rounds(resident, chosen, SEED, base, run)
            first = run.path / TRAIN[0] / "result.json"
            written = first.stat().st_mtime_ns
            run.start({}, "slot-0")
        result = execute_rounds(resident, chosen, SEED, base, run)
        if name:
            assert first.stat().st_mtime_ns == written
        steps = [(event.round, event.step, event.steps) for event in run.events() if isinstance(event, Step)]
        seen[name or "uncut"] = {"result": outcome(result), "steps": steps}
        assert not list(run.path.rglob("checkpoint.safetensors"))
    return seen


def test_a_run_that_is_cut_off_goes_on_with_its_round(ranks: Callable, tmp_path: Path) -> None:
    (seen,) = ranks(1)(try_cuts, tmp_path)
    assert seen["uncut"]["steps"] == [(task, 4 * n + k, 8) for n, task in enumerate(TRAIN) for k in (1, 2, 3, 4)]
    assert [step for _, step, _ in seen["between two rounds"]["steps"]] == [5, 6, 7, 8]
    assert [step for _, step, _ in seen["in a round"]["steps"]] == [7, 8], "from the checkpoint after its second step"
    for name in CUTS:
        assert seen[name]["result"] == seen["uncut"]["result"]
        for task in TRAIN:
            saved = (tmp_path / each / f"seed-{SEED}" / task / "adapter.safetensors" for each in ("uncut", name))
            assert tiny.same(*map(load_file, saved))


def test_a_race_weighs_every_round_alike() -> None:
    def answers(**right: str) -> dict[str, Any]:
        every = {"second/second": "0110", "second/max": "0110", "max/second": "0110", "max/max": "0110"}
        given = every | {key.replace("_", "/"): value for key, value in right.items()}
        return {key: {"validation": {"likelihood": digits}} for key, digits in given.items()}

    better, both = {0: answers(max_max="1111")}, ("second", "max")
    assert p_worse({0: answers()}, better, "val_id_accuracy", both) < 0.25
    assert p_worse({0: answers()}, better, "val_ood_accuracy", both) == 1.0
    shifted = {0: answers(second_second="1110", max_max="0100")}
    assert p_worse({0: answers()}, shifted, "val_id_accuracy", both) == pytest.approx(0.5), "one gains what one loses"
