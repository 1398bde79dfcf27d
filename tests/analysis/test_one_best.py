"""Whoever names the best configuration of a sweep names the same one."""

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import gallop_ray
from gallop_ray.analysis.live import SweepState
from gallop_ray.analysis.ranking import best
from gallop_ray.analysis.status import StatusReader
from gallop_ray.cli import main
from gallop_ray.mlflow_mirror.artifacts import handed_out
from gallop_ray.records.folders import SweepFolder
from gallop_ray.reporting.figures.choose import best as best_drawn
from gallop_ray.reporting.progress import render, status_line
from gallop_ray.reporting.report.material import gather
from gallop_ray.reporting.status import render as render_status
from gallop_ray.reporting.table import final_table, markdown_table
from gallop_ray.spec.plan import plan_sweep
from gallop_ray.spec.schema import Sweep
from gallop_ray.sweep.admission import keep_best
from gallop_ray.sweep.driver import unconfirmed

_RUNS = {"a": (0.78, 0.66, 0.66), "b": (0.75,), "c": (0.77, None)}
_ENDS = {"a": "finished", "b": "pruned", "c": "failed"}
OTHER = "gallop-dddddddd"
KEYS = {name: f"gallop-{name * 8}" for name in _RUNS}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "three",
            "output": str(tmp_path),
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": "range", "ood": ["max"]},
            "methods": [{"type": "gallop"}],
            "seeds": 3,
            "search": {"space": {"training.learning_rate": {"log": [1e-4, 1e-2]}}},
            "pruning": {"type": "median"},
            "confirmation": {"seeds": 1},
        }
    )


@pytest.fixture
def folder(sweep: Sweep) -> SweepFolder:
    """One finished configuration, one pruned after a lucky seed, one that failed after a better one."""
    folder = SweepFolder(Path(sweep.output) / sweep.name)
    folder.create(sweep.model_dump(mode="json"))
    for name, values in _RUNS.items():
        configuration = folder.configuration(KEYS[name])
        settings = {"method": dict(sweep.methods[0]), "training": {**dict(sweep.training), "learning_rate": 0.003}}
        configuration.create(settings)
        for seed, value in enumerate(values):
            run, status = configuration.run(seed), "finished" if value else "failed"
            run.start({"configuration": settings, "seed": seed}, "slot-0")
            run.adapter.write_bytes(b"trained")
            run.finish(
                {"configuration": configuration.key, "method": "gallop", "seed": seed, "stage": "search",
                 "status": status, "reason": value and "torn", "val_mean_accuracy": value, "id_accuracy": value}
            )  # fmt: skip
        known = [value for value in values if value]
        configuration.write_status(_ENDS[name], list(range(len(known))), sum(known) / len(known))
    folder.rebuild_results()
    return folder


def test_one_configuration_is_best_everywhere(
    folder: SweepFolder, sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    state = SweepState(folder, plan_sweep(sweep, None).methods, sweep.objective)
    state.look()
    status, material, run = StatusReader(folder, sweep).look(), gather(folder, sweep), handed_out(folder, sweep)
    assert main(["best", str(folder.path)]) == 0
    assert run is not None
    assert status.best is not None
    of_gallop = status.methods["gallop"].best
    assert of_gallop is not None
    named = {
        "best": capsys.readouterr().out.split(",")[0],
        "Python": gallop_ray.best(folder.path)[0].configuration,
        "display": status_line(state).partition("best ")[2].partition(":")[0],
        "status": status.best.configuration,
        "status of the method": of_gallop.configuration,
        "report": material.best[0].configuration,
        "statistics": material.statistics.best[0].configuration,
        "figures": best_drawn(material.frame, sweep.objective)[0].configuration,
        "MLflow": run.configuration,
        "confirmation": unconfirmed(sweep, folder)[0],
    }
    assert named == dict.fromkeys(named, KEYS["a"])
    assert run.seed == 0  # the seed that validates best
    assert "| gallop | 3 | - | - | - | 70.0 |" in markdown_table(folder.results())
    shown = Console(record=True, width=120, file=StringIO())
    shown.print(render(state), final_table(folder.results()), render_status(status))
    text = shown.export_text()
    assert re.findall(r"best (gallop-\w+): val_mean_accuracy ([\d.]+)", text) == [(KEYS["a"], "70.0")] * 2
    assert re.search(r"^gallop +3 .* 70\.0 ", text, re.MULTILINE)


def test_the_adapters_that_are_kept_are_those_of_the_best(folder: SweepFolder, sweep: Sweep) -> None:
    keep_best(folder, sweep, set())
    kept = {run.configuration for run in folder.runs() if run.adapter.exists()}
    assert kept == {KEYS["a"]}


def test_the_adapters_of_the_confirmed_best_stay_when_the_sweep_grows(folder: SweepFolder, sweep: Sweep) -> None:
    _confirm(folder, "a", 0.7)
    for seed in (1, 2):  # b continues after the sweep was made larger, and is better in the search alone
        _finish(folder, "b", seed, 0.75)
    folder.configuration(KEYS["b"]).write_status("finished", [0, 1, 2], 0.75)
    keep_best(folder, sweep, set())
    _confirm(folder, "b", 0.6)
    keep_best(folder, sweep, set())
    assert [each.configuration for each in best(folder.results(), sweep.objective)] == [KEYS["a"]]
    kept = {run.configuration for run in folder.runs() if run.adapter.exists()}
    assert kept == {KEYS["a"], KEYS["b"]}, "of the verdict's best, and of the search's"


def test_the_adapters_of_the_whole_front_stay(folder: SweepFolder, sweep: Sweep) -> None:
    two = ["val_mean_accuracy", "val_ood_accuracy"]
    objective = sweep.objective.model_copy(update={"metric": two[0], "metrics": tuple(two)})
    for name, ood in (("a", 0.5), ("b", 0.6), ("d", 0.5)):
        for seed in range(3):
            _finish(folder, name, seed, {"a": 0.7, "b": 0.6, "d": 0.6}[name], val_ood_accuracy=ood)
        folder.configuration(KEYS.get(name, OTHER)).write_status("finished", [0, 1, 2], 0.5)
    keep_best(folder, sweep.model_copy(update={"objective": objective}), set())
    kept = {run.configuration for run in folder.runs() if run.adapter.exists()}
    assert kept == {KEYS["a"], KEYS["b"]}, "neither is better by both; the third is worse than one of them"


def _finish(folder: SweepFolder, name: str, seed: int, value: float, stage: str = "search", **more: float) -> None:
    configuration = folder.configuration(KEYS.get(name, OTHER))
    configuration.create({"method": {"name": "gallop"}, "training": {}})
    run = configuration.run(seed)
    run.path.mkdir(exist_ok=True)
    run.adapter.write_bytes(b"trained")
    run.finish(
        {"configuration": configuration.key, "method": "gallop", "seed": seed, "stage": stage, "status": "finished",
         "val_mean_accuracy": value, **more}
    )  # fmt: skip
    folder.rebuild_results()


def _confirm(folder: SweepFolder, name: str, value: float) -> None:
    _finish(folder, name, 1000, value, "confirmation")


def test_where_every_configuration_failed_there_is_no_best(
    folder: SweepFolder, sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        run = folder.run(KEYS[name], 2)
        run.path.mkdir(exist_ok=True)
        run.finish({"configuration": KEYS[name], "method": "gallop", "seed": 2, "status": "diverged", "reason": "NaN"})
    capsys.readouterr()
    assert handed_out(folder, sweep) is None
    assert StatusReader(folder, sweep).look().best is None
    assert main(["best", str(folder.path)]) == 2
    assert "no configuration of" in capsys.readouterr().err
