"""What a slot's worker leaves in the folders of sweep, run and rounds, without a cluster around it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.predictions import read_predictions
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.slots.jobs import BaseJob, RunJob
from gallop_ray.slots.worker import _answer
from gallop_ray.spec.configuration import configuration_key, resolve
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.metrics import accuracies
from gallop_ray.training.resident import load_base_model
from tests.exports.trained import save_base


def sweep_of(base: Path, train: Any) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "written",
            "model": {"name": str(base)},
            "data": {
                "root": "generated",
                "train": train,
                "ood": ["first"],
                "limits": {"train": 8, "validation": 4, "test": 6},
            },
            "methods": [{"type": "random", "density": 0.05}],
            "training": {"steps": 1, "batch_size": 4, "micro_batch_size": 4, "max_length": 32},
            "evaluation": {"batch_size": 6, "max_new_tokens": 2},
            "retention": {"predictions": 5},
        }
    )


def work(base: Path, output: Path) -> None:
    """On a rank: the base model measured and a run of one task and of two, as a slot's worker does it."""
    for name, train in (("one", "second"), ("two", ["second", "max"])):
        sweep, folder = sweep_of(base, train), SweepFolder(output / name)
        folder.create(sweep.model_dump(mode="json"))
        resident = load_base_model(sweep)
        found = _answer(resident, folder, BaseJob(), "slot-0", 0).result
        folder.write_base(accuracies(found["correct"]), **found)
        configuration = resolve(sweep, "random", {})
        key = configuration_key(configuration)
        folder.configuration(key).create(configuration.model_dump(mode="json"))
        outcome = _answer(resident, folder, RunJob(key, 0, 4), "slot-0", 0)
        assert outcome.status == "finished", outcome.reason
        assert "predictions" not in outcome.result


@pytest.fixture(scope="module")
def output(ranks: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    (folder / "base").mkdir()
    save_base(folder / "base")
    ranks(1)(work, folder / "base", folder)
    return folder


def run_of(output: Path, name: str) -> RunFolder:
    return next(SweepFolder(output / name).runs())


@pytest.mark.parametrize(("name", "tasks"), [("one", {"second", "first"}), ("two", {"second/second", "max/max"})])
def test_every_run_keeps_what_it_said_beside_the_base(output: Path, name: str, tasks: set[str]) -> None:
    found, correct = run_of(output, name).predictions(), run_of(output, name).read("correct")
    assert correct is not None
    assert tasks <= {each["task"] for each in found} == set(correct)
    assert {each["example"] for each in found} == set(range(5)), "as many as retention.predictions"
    for each in found:
        for way, value in each["measured"].items():
            assert value == float(correct[each["task"]]["test"][way][each["example"]])
        assert each["right"] == each["measured"]["generated"] == (each["read"] == each["reference"])
        assert each["base_output"] is not None
        assert each["base_measured"].keys() == each["measured"].keys()


def test_the_base_models_are_kept_once(output: Path) -> None:
    found = read_predictions(SweepFolder(output / "one").base_predictions)
    assert [each["example"] for each in found] == [*range(5)] * 2
    assert not any("base_output" in each for each in found)
    assert not (output / "one" / "base_progress.json").exists()
