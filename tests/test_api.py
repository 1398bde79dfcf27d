"""What `import gallop_ray` offers."""

import subprocess
import sys
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest

import gallop_ray
from gallop_ray.spec.method import BUILT_IN
from tests.sweep.written import Written, small_sweep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written = Written(small_sweep(tmp_path))
    for rate in (0.1, 0.2):
        for seed in (0, 1):
            run = written.begin("gallop", rate, seed)
            run.event("step", step=1, steps=1, loss=rate, learning_rate=rate, grad_norm=1.0)
            written.end(run, rate + seed / 10)
    return written.folder.path


def test_results_are_a_frame_with_a_row_a_run_and_figures_are_drawn_from_it(folder: Path) -> None:
    frame = gallop_ray.results(folder)
    assert sorted(zip(frame["learning_rate"], frame["seed"], frame["id_accuracy"], strict=True)) == [
        (0.1, 0, 0.1), (0.1, 1, 0.2), (0.2, 0, 0.2), (0.2, 1, pytest.approx(0.3)),
    ]  # fmt: skip
    assert set(frame["seconds_total"]) == {60}
    for drawn_from in (frame, frame[frame["seed"] == 0], folder, str(folder)):
        (axes,) = gallop_ray.plot_learning_rate(drawn_from).axes
        assert axes.get_lines()


def test_what_is_no_frame_of_runs_is_refused_in_one_line(folder: Path) -> None:
    frame = gallop_ray.results(folder)
    plots = (gallop_ray.plot_front, gallop_ray.plot_cost, gallop_ray.plot_seeds, gallop_ray.plot_density)
    wrong: list[tuple[Any, str]] = [
        (
            frame[["method", "seed"]],
            "^the runs to draw have no configuration, status: select rows of gallop_ray.results",
        ),
        ([1, 2], "^a figure is drawn from a sweep's folder, or from what .* got a list$"),
        (frame.groupby("method"), "got a DataFrameGroupBy$"),
    ]
    for plot in plots:
        for given, said in wrong:
            with pytest.raises(ValueError, match=said):
                plot(given)
    with pytest.raises(ValueError, match=r"^a row of the runs to draw .*status.*: gallop-\w+$"):
        gallop_ray.plot_seeds(frame.assign(status="odd"))


def test_statistics_are_a_frame_with_a_row_a_metric_of_a_configuration(folder: Path) -> None:
    frame = gallop_ray.statistics(folder)
    found = frame[frame["metric"] == "id_accuracy"].sort_values("mean")
    assert found["mean"].tolist() == pytest.approx([0.15, 0.25])
    assert found["n"].tolist() == [2, 2]
    assert found["worst_seed"].tolist() == [0, 0]


def test_figures_that_need_more_than_results_are_drawn_from_the_folder(folder: Path) -> None:
    (axes,) = gallop_ray.plot_loss(folder).axes
    assert axes.get_title("left") == "gallop"
    (axes,) = gallop_ray.plot_loss(gallop_ray.results(folder)).axes
    assert axes.get_title("left") == "gallop"
    for plot in (gallop_ray.plot_masks, gallop_ray.plot_overlap, gallop_ray.plot_importance):
        with pytest.raises(ValueError, match=r"no |fewer"):  # no masks in this folder, and too few configurations
            plot(folder)
    with pytest.raises(ValueError, match="no two methods"):
        gallop_ray.plot_differences(folder)


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a sweep"):
        gallop_ray.results(tmp_path)


def test_overrides_of_a_sweep_that_is_loaded_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give them to load_sweep"):
        gallop_ray.run_sweep(small_sweep(tmp_path), ["training.epochs=2"])


def test_a_folder_answers_as_the_commands_do(folder: Path) -> None:
    standing = gallop_ray.status(folder)
    assert (standing.state, standing.runs.finished) == ("not running", 4)
    (best,) = gallop_ray.best(folder)
    assert (best.method, best.seeds, best.settings["training"]["learning_rate"]) == ("gallop", 2, 0.2)
    assert best.metrics["id_accuracy"] == pytest.approx((0.25, 0.05 * 2**0.5))
    page = gallop_ray.report(folder, folder.parent / "page.html")
    assert "gallop" in page.read_text()
    with pytest.raises(ValueError, match="is not running"):
        gallop_ray.stop(folder)
    with pytest.raises(ValueError, match="no run that failed"):
        gallop_ray.retry(folder, [best.configuration])


def test_a_sweep_as_a_dict_keeps_all_rules(tmp_path: Path) -> None:
    data = small_sweep(tmp_path).model_dump(mode="json")
    data["training"] |= {"batch_size": 30, "micro_batch_size": 8}
    with pytest.raises(gallop_ray.SweepFileError, match=r"training\.batch_size"):
        gallop_ray.run_sweep(data)
    data["training"] |= {"batch_size": "many"}
    with pytest.raises(gallop_ray.SweepFileError, match=r"training\.batch_size.*many"):
        gallop_ray.run_sweep(data)


def test_importing_and_loading_a_sweep_import_nothing_heavy() -> None:
    program = (
        "import sys, gallop_ray; gallop_ray.load_sweep('sweeps/quickstart.yaml');"
        "print({'torch', 'ray', 'matplotlib', 'pandas', 'mlflow'} & sys.modules.keys())"
    )
    root = Path(gallop_ray.__file__).parents[1]
    said = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"


def test_all_that_is_offered_is_there() -> None:
    assert all(getattr(gallop_ray, name) is not None for name in gallop_ray.__all__)


def test_no_package_takes_the_name_of_what_is_offered() -> None:
    """Importing a package inside ours gives its name to it for good, and `gallop_ray.export(...)` worked once."""
    assert not {package.name for package in iter_modules(gallop_ray.__path__)} & set(gallop_ray.__all__)


def test_the_spec_of_every_method_is_offered() -> None:
    offered = [getattr(gallop_ray, name) for name in gallop_ray.__all__]
    assert {spec.__name__ for spec in BUILT_IN.values() if spec not in offered} == set()
