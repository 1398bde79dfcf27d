"""Tasks of lm-evaluation-harness in a sweep, from the sweep file to the report."""

import json
from pathlib import Path

import pytest

from gallop_ray.records.folders import SweepFolder
from tests.sweep import command
from tests.tasks.harness.test_run import asked, train_rows
from tests.tasks.harness.test_task import CHOICE, WORDS, rows, write

pytestmark = pytest.mark.long


def test_they_test_and_validate_and_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(tmp_path, "one", CHOICE, test=rows(20))
    write(tmp_path, "words", WORDS, train=rows(9), validation=rows(20, 20))
    (tmp_path / "own.train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in train_rows(8)))
    sweep = command.write_sweep(
        tmp_path,
        data=asked(tmp_path)["data"],
        methods=[{"type": "gallop", "density": 0.05}],
        seeds=1,
        search={"space": {}},
        budget={"configurations": 1},
    )
    done = command.run("run", sweep)
    assert done.returncode == 0, done.stdout
    folder = SweepFolder(tmp_path / "runs/tiny")
    (run,) = folder.runs()
    result = run.result()
    assert result is not None
    assert result.status == "finished"
    correct = json.loads((run.path / "correct.json").read_text())
    own, words = correct["own"]["test"]["acc"], correct["words"]["test"]["exact_match,digit"]
    assert (len(own), len(words)) == (16, 5)
    assert result.value("id_accuracy") == pytest.approx(own.count("1") / len(own))
    assert command.run("report", folder.path).returncode == 0
    page = (folder.path / "report/report.html").read_text()
    assert all(name in page for name in ("own", "words"))
