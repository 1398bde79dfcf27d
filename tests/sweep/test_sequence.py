"""A sweep whose runs learn two tasks one after the other, through the commands, as a user would."""

import csv
import json
from pathlib import Path

import pytest

from gallop_ray.cli import main
from gallop_ray.records.folders import SweepFolder
from tests.sweep import command

TASKS = ["second", "max"]


def test_a_sequence_from_file_to_report_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = command.write_sweep(
        tmp_path,
        data={**command.TINY["data"], "train": TASKS, "sequence": True, "ood": ["first"]},
        methods=[{"type": "gallop", "density": 0.05}, {"type": "lora", "rank": 2}],
        search={"space": {}},
        seeds=1,
    )
    done = command.run("run", sweep)
    assert done.returncode == 0, done.stdout
    folder = SweepFolder(tmp_path / "runs" / "tiny")
    for result in folder.results():
        rounds = result.rounds
        assert list(rounds) == TASKS
        last = rounds["max"]["accuracy"]
        assert result.value("id_accuracy") == pytest.approx((last["second"] + last["max"]) / 2)
        lost = rounds["second"]["accuracy"]["second"] - last["second"]
        assert result.value("backward_transfer") == pytest.approx(-lost)
        assert result.value("sequence_forgetting") == pytest.approx(lost)
    with (folder.path / "report" / "tables" / "stages.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert next((row["method"], row["stage"]) for row in rows) == ("base model", "")
    assert sorted((row["method"], row["stage"]) for row in rows[1:]) == sorted(
        (m, t) for m in ("gallop", "lora") for t in TASKS
    )
    best = command.run("best", folder.path, "--all").stdout
    places = [best.index(f"/{task}/adapter.safetensors") for task in TASKS]
    assert places == sorted(places), "in the order of the stages"
    run = next(run for run in folder.runs() if run.configuration.startswith("gallop"))
    for path, stage in ((run.path, "max"), (run.path / "second", "second")):
        assert main(["export", str(path), "--to", "merged", "--output", str(tmp_path / stage)]) == 0
        asked = json.loads((tmp_path / stage / "prompt.json").read_text())
        assert stage in asked["example"]["prompt"] or asked["example"]["prompt"]
    whole, first = ((tmp_path / stage / "model.safetensors").read_bytes() for stage in ("max", "second"))
    assert whole != first
    capsys.readouterr()
    assert main(["export", str(run.path), "--to", "peft"]) == 2
    assert "what the stages before it have changed; use --to merged" in capsys.readouterr().err


def test_a_sequence_of_one_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = command.write_sweep(tmp_path, data={**command.TINY["data"], "sequence": True})
    assert main(["validate", str(sweep)]) == 2
    assert "data.sequence: true is not allowed with one task to train on" in capsys.readouterr().err
