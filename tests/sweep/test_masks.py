"""The end of a sweep, without Ray: a finished one has its masks and its report in its folder and in MLflow."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gallop_ray.mlflow_mirror.store import tracking_uri
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.search.study import Studies
from gallop_ray.spec.schema import Sweep
from gallop_ray.sweep.driver import run_sweep


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Sweep.model_validate(
        {
            "name": "done",
            "output": str(tmp_path),
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": "second"},
            "methods": [{"type": "random"}],
        }
    )


@pytest.fixture
def run(sweep: Sweep) -> RunFolder:
    """The only run of a sweep in which nothing is left to do."""
    folder = SweepFolder(Path(sweep.output) / sweep.name)
    folder.create(sweep.model_dump(mode="json"))
    studies = Studies(sweep, folder)
    key = studies.next()
    assert key is not None
    run = folder.run(key, 0)
    run.start({}, "slot-0")
    weight = "model.layers.0.mlp.up_proj"
    save_file({f"{weight}.weight.indices": np.arange(3, dtype=np.int32)}, run.adapter)
    run.write("mask", {"chosen": 3, "matrices": {weight: [3, 8]}})
    identity = {"configuration": key, "seed": 0, "method": "random", "slot": "slot-0"}
    run.finish({**identity, "status": "finished", "reason": None, "val_id_accuracy": 0.5})
    folder.configuration(key).write_status("finished", [0], 0.5)
    studies.tell(key)
    return run


ALWAYS = {"adapter/adapter.safetensors", "results.jsonl", "sweep.yaml"}
MASKS, REPORT = {"masks.json", "masks.png"}, {"report/report.html", "report/verdict.txt", "report/files.txt"}


def artifacts(sweep: Sweep) -> set[str]:
    """The files of the sweep's MLflow run."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri(sweep))
    experiment = client.get_experiment_by_name(sweep.tracking.experiment)
    (found,) = client.search_runs([experiment.experiment_id], "tags.`gallop_ray.level` = 'sweep'")
    assert found.info.status == "FINISHED"

    def files(folder: str | None = None) -> set[str]:
        listed = client.list_artifacts(found.info.run_id, folder)
        return {path for each in listed for path in (files(each.path) if each.is_dir else {each.path})}

    return files()


def without_tables_and_figures(paths: set[str]) -> set[str]:
    """Of the report only what it always has."""
    return {path for path in paths if not path.startswith(("report/tables/", "report/figures/"))}


def test_the_masks_are_files_of_the_sweep_and_of_its_mlflow_run(sweep: Sweep, run: RunFolder) -> None:
    folder = run_sweep(sweep)
    assert sorted(path.name for path in folder.path.glob("masks.*")) == ["masks.json", "masks.png"]
    found = artifacts(sweep)
    assert without_tables_and_figures(found) == ALWAYS | MASKS | REPORT
    assert found >= {f"report/figures/masks.{kind}" for kind in ("svg", "png")}
    assert {path for path in found if path.startswith("report/")} == {
        path.relative_to(folder.path).as_posix() for path in (folder.path / "report").rglob("*.*")
    }


def test_a_page_that_cannot_be_written_is_a_warning(
    sweep: Sweep, run: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    (run.path.parent.parent / "report").write_text("in the way")
    run_sweep(sweep)
    assert "no report on" in capfd.readouterr().err
    assert artifacts(sweep) == ALWAYS | MASKS


def test_a_damaged_mask_costs_no_report(sweep: Sweep, run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    run.write("mask", {"chosen": 3, "matrices": {"up_proj": "three"}})
    run_sweep(sweep)
    assert "mask.json has a wrong matrices" in caplog.text
    assert without_tables_and_figures(artifacts(sweep)) == ALWAYS | REPORT
