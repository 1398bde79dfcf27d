"""Two runs in turn by rungs of a few steps on one base: each is bitwise what it is alone."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gallop_ray.spec.schema import Configuration
from gallop_ray.testing.model import load
from gallop_ray.training.held import Held
from gallop_ray.training.pause import Judged
from gallop_ray.training.resident import LoadedModel, load_base_model
from gallop_ray.training.run import execute_until, measure_base
from tests.training import tiny
from tests.training.test_run import TIMES, configuration, sweep

STEPS = {"steps": 6, "warmup_ratio": 0.2}
METHODS: dict[str, dict[str, Any]] = {
    "gallop": {"density": 0.05, "selection_ratio": 0.5},
    "lift": {"density": 0.05, "refresh_every": 3},
    "spiel": {"variant": "ma", "density": 0.05, "refresh_every": 3, "accumulate": 1, "initial_rate": 0.9},
    "lora": {"rank": 2, "dropout": 0.1},
    "full": {},
    "pissa": {"type": "peft", "tuner": "lora", "options": {"r": 2, "lora_alpha": 2, "init_lora_weights": "pissa"}},
    "adalora": {
        "type": "peft",
        "tuner": "adalora",
        "options": {"init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 2, "lora_dropout": 0.1},
    },
}


class Reporter:
    """Keeps the events of rank 0 in memory."""

    def __init__(self, folder: Path, name: str) -> None:
        self.adapter, self.checkpoint = folder / f"{name}.safetensors", folder / f"{name}.checkpoint.safetensors"
        self.losses: dict[int, float] = {}

    def event(self, event: str, **fields: Any) -> None:
        if event == "step":
            self.losses[fields["step"]] = fields["loss"]


def wanted(resident: LoadedModel, names: Collection[str]) -> dict[str, tuple[Configuration, int]]:
    return {name: (configuration(resident, name, METHODS[name], **STEPS), 0) for name in names}


def alone_and_in_turn(
    stage: int, dtype: str, folder: Path, names: Collection[str], rungs: tuple[int, ...], reload: bool
) -> dict[str, Any]:
    """On each rank: what every run gives alone, and paused at rungs between steps of the others."""
    resident = load_base_model(sweep(stage, dtype), load)
    if reload:
        object.__setattr__(resident, "held", Held(0))
    base, weights = measure_base(resident).accuracies, tiny.whole_weights(resident.model)
    found: dict[str, Any] = {"alone": {}, "in turn": {}, "rungs": [], "read": 0}

    def run(how: str, name: str, until: int | None) -> dict[str, Any] | Judged:
        reporter = reporters[how, name]
        said = execute_until(until, resident, *runs[name], base, reporter)
        assert tiny.same(tiny.whole_weights(resident.model), weights), f"{name} restores the base"
        if isinstance(said, Judged):
            assert not reporter.adapter.exists()
            found["rungs"].append((name, said.step, said.loss, said.losses))
            return said
        result = {key: value for key, value in said.items() if key not in TIMES}
        found[how][name] = result, reporter.losses
        return said

    runs = wanted(resident, names)
    reporters = {(how, name): Reporter(folder, f"{how} {name}") for how in ("alone", "in turn") for name in runs}
    for name in runs:
        run("alone", name, None)
    for until in rungs:
        for name in runs:
            assert isinstance(run("in turn", name, until), Judged)
    for name in runs:
        last: Mapping[str, Any] = run("in turn", name, None)  # type: ignore[assignment]
        assert last["seconds"]["swapping"] > 0
        assert last["seconds"]["total"] > sum(s for phase, s in last["seconds"].items() if phase != "total") * 0.9
    assert not resident.held.paths, "nothing stays behind"
    return found


@pytest.mark.parametrize(
    ("world", "stage", "dtype", "names", "rungs", "reload"),
    [
        (2, 1, "float32", ("gallop", "lora"), (2, 5), False),
        (2, 1, "float32", ("lift", "spiel", "full"), (2, 5), True),
        (2, 1, "float32", ("adalora", "pissa"), (3, 5), False),
        pytest.param(1, 1, "bfloat16", ("adalora", "full"), (2, 4), True, marks=pytest.mark.long),
        (2, 3, "bfloat16", ("gallop", "lora"), (4,), True),
        (2, 3, "bfloat16", ("lift", "full"), (4,), False),
        pytest.param(1, 3, "float32", ("lift", "lora"), (4,), False, marks=pytest.mark.long),
    ],
)
def test_runs_in_turn_are_bitwise_what_they_are_alone(
    ranks: Callable,
    tmp_path: Path,
    world: int,
    stage: int,
    dtype: str,
    names: tuple[str, ...],
    rungs: tuple[int, ...],
    reload: bool,
) -> None:
    results = ranks(world)(alone_and_in_turn, stage, dtype, tmp_path, names, rungs, reload)
    assert all(each["alone"].keys() == set(names) for each in results)
    for found in results:
        assert found["in turn"] == found["alone"]
        assert found["rungs"] == results[0]["rungs"], "the ranks agree"
    for name in results[0]["alone"]:
        alone, in_turn = (load_file(tmp_path / f"{how} {name}.safetensors") for how in ("alone", "in turn"))
        assert tiny.same(alone, in_turn), name
    steps = [(step, name) for name, step, _, _ in results[0]["rungs"]]
    assert sorted(steps) == sorted((step, name) for step in rungs for name in results[0]["alone"])
    assert all(torch.tensor(loss).isfinite() for _, _, loss, _ in results[0]["rungs"])
