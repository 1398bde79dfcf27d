"""`gallop-ray list` and `best --yaml`."""

from pathlib import Path

import pytest
import yaml

from gallop_ray.analysis.best import Best, as_sweep_file
from gallop_ray.cli import main
from gallop_ray.spec.checks import checked_sweep
from gallop_ray.spec.configuration import resolve
from gallop_ray.spec.load import load_sweep
from tests.sweep.written import Written, small_sweep


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Two of six runs have finished."""
    made = Written(small_sweep(tmp_path, training={"steps": 7}, resources={"slots": 1}))
    for seed, accuracy in enumerate((0.6, 0.8)):
        made.end(made.begin("gallop", 0.2, seed), accuracy)
    return made


def test_each_sweep_has_a_line(written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "spec.json").write_text("{")
    assert main(["list", str(tmp_path)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "small" in text
    assert "not running 2/6 70.0 % gallop-" in text
    assert "cannot be read" in text
    assert "mlruns" not in text


def test_a_sweep_that_goes_by_a_loss_has_its_best_in_nats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Written(small_sweep(tmp_path, objective={"metric": "val_id_loss"}))
    for seed, loss in enumerate((2.7, 2.9)):
        made.end(run := made.begin("gallop", 0.2, seed))
        run.write("result", {**(run.read("result") or {}), "val_id_loss": loss})
    made.folder.rebuild_results()
    assert main(["list", str(tmp_path)]) == 0
    assert " 2.800 nats gallop-" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_sweeps_is_told(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(tmp_path / folder)]) == 2
    assert "folder of sweeps" in (said := capsys.readouterr().err) or "holds no sweep" in said


def test_the_best_as_a_sweep_file_is_valid_and_the_same(
    written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["best", str(written.folder.path), "--yaml"]) == 0
    file = tmp_path / "again.yaml"
    file.write_text(capsys.readouterr().out)
    again, before = load_sweep(file), written.sweep
    assert again.name == "small-best"
    assert (again.model, again.data, again.seeds, again.resources) == (
        before.model,
        before.data,
        before.seeds,
        before.resources,
    )
    assert again.methods == before.methods[:1]
    assert (again.training.learning_rate, again.training.steps) == (0.2, 7)
    assert not again.search.space
    assert "evaluation" not in yaml.safe_load(file.read_text()), "what has its default is left out"


def test_the_best_as_a_sweep_file_leaves_out_what_others_needed(written: Written) -> None:
    """Elastic weight consolidation and decay to the base, where the search found 0 of both best."""
    asked = written.sweep.model_dump(mode="json", exclude_defaults=True)
    space = {"training.ewc": {"choice": [0.0, 10.0]}, "training.weight_decay": {"choice": [0.0, 0.1]}}
    data = {**asked["data"], "fisher": {"task": "max", "examples": 8}}
    training = {"steps": 7, "decay_to": "base"}
    sweep = checked_sweep(
        {**asked, "methods": [{"type": "gallop"}], "data": data, "training": training, "search": {"space": space}}
    )
    for value in (0.0, 0.1):
        found = resolve(sweep, "gallop", {"training.ewc": 100 * value, "training.weight_decay": value})
        settings = found.model_dump(mode="json")
        best = Best(
            "gallop-1", "gallop", 1, {}, {"methods": [settings["method"]], "training": settings["training"]}, [], []
        )
        best.settings["training"].pop("epochs")
        again = checked_sweep(as_sweep_file(best, sweep))
        assert (again.training.weight_decay, again.training.ewc) == (value, 100 * value)
        assert (again.data.fisher is None) == (value == 0)
