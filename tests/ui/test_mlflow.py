"""MLflow's pages on a finished sweep, in a browser: nested runs, four configurations compared, the report."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from gallop_ray.mlflow_mirror.mirror import MlflowMirror
from gallop_ray.mlflow_mirror.store import tracking_uri
from gallop_ray.records.identity import settle
from tests.sweep.written import Written, small_sweep

pytestmark = pytest.mark.ui

_WAIT = 60_000  # milliseconds; MLflow's first page loads megabytes of scripts
_RATES = (0.1, 0.2)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `gallop-ray ui` on a finished sweep; it ends in the experiment's page."""
    output = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        _finished_sweep(output)
        program = "import sys; from gallop_ray.cli import main; sys.exit(main())"
        asked = ["ui", "--output", str(output), "--port", str(_free_port()), "--no-browser"]
        with subprocess.Popen([sys.executable, "-c", program, *asked], stdout=subprocess.PIPE, text=True) as ui:
            assert ui.stdout is not None
            yield ui.stdout.readline().removeprefix("MLflow: ").strip()
            ui.send_signal(signal.SIGINT)


def _finished_sweep(output: Path) -> None:
    choice = {"choice": list(_RATES)}
    space = {"gallop.training.learning_rate": choice, "random.training.learning_rate": choice}
    written = Written(small_sweep(output, search={"space": space}))
    splits = {"range": {"train": "a1" * 32, "validation": "b2" * 32, "test": "c3" * 32}}
    settle(written.folder, {"examples of": {**splits, "max": {"validation": "d4" * 32, "test": "e5" * 32}}})
    for place, method in enumerate(("gallop", "random")):
        for rate in _RATES:
            for seed in (0, 1):
                run = written.begin(method, rate, seed)
                run.adapter.write_bytes(b"of a run")
                written.end(run, 0.5 + 0.1 * place + rate + 0.01 * seed)
    report = written.folder.path / "report"
    report.mkdir()
    (report / "report.html").write_text("<!doctype html><title>small</title><h1>The report of small</h1>")
    (report / "verdict.txt").write_text("random is best.\n")
    mirror = MlflowMirror(written.folder, written.sweep, tracking_uri(written.sweep))
    mirror.start()
    assert mirror.stop(timeout=200)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1500, "height": 1000})
    opened.set_default_timeout(_WAIT)
    yield opened
    opened.close()


def _runs(pages: str, level: str) -> list[Any]:
    from mlflow import MlflowClient

    server, experiment = re.match(r"(.*)/#/experiments/(\d+)/runs", pages).groups()  # type: ignore[union-attr]
    return list(MlflowClient(server).search_runs([experiment], f"tags.`gallop_ray.level` = '{level}'"))


def _comparison(pages: str) -> str:
    """The address of the page that compares all four configurations."""
    runs = _runs(pages, "configuration")
    assert len(runs) == 4
    ids, experiment = [run.info.run_id for run in runs], runs[0].info.experiment_id
    server = pages.partition("/#")[0]
    return f"{server}/#/compare-runs?runs={quote(json.dumps(ids))}&experiments={quote(json.dumps([experiment]))}"


def test_the_experiment_lists_the_runs_nested_below_the_sweep(pages: str, page: Any) -> None:
    page.goto(pages.partition("?")[0])
    sweep = page.get_by_role("row").filter(has_text="small")
    sweep.get_by_role("link", name="small", exact=True).first.wait_for()
    assert page.get_by_text("gallop lr=0.1").count() == 0, "configurations are folded in"
    page.get_by_role("row").filter(has_text="small").get_by_role("button").first.click()
    page.get_by_text(re.compile(r"gallop lr=0\.1 [0-9a-f]{8}")).first.wait_for()
    page.get_by_text(re.compile(r"random lr=0\.2 [0-9a-f]{8}")).first.wait_for()


def test_the_page_opens_with_the_best_first_and_what_a_sweep_is_compared_by(pages: str, page: Any) -> None:
    page.goto(pages)
    name = page.get_by_text(re.compile(r"^(gallop|random) lr=0\.[12] [0-9a-f]{8}$"))
    name.first.wait_for()
    assert name.first.inner_text().startswith("random lr=0.2"), "the largest val_mean_accuracy"
    for column in ("val_mean_accuracy", "id_accuracy", "density", "learning_rate"):
        assert page.get_by_text(column, exact=True).count(), column


def test_the_table_of_runs_shows_the_datasets_and_the_model(pages: str, page: Any) -> None:
    page.goto(pages.partition("?")[0])
    row = page.get_by_role("row").filter(has_text="small")
    row.get_by_text("range (a1a1a1a1a1a1)").wait_for()
    told = row.get_by_role("gridcell").filter(has_text="range (").inner_text().split("\n,\n")
    assert "Training" in told[0]
    assert [each.partition(" ")[0] for each in told] == ["range"] * 3 + ["max"] * 2
    model = row.locator("a[href*='/models/']")
    assert model.inner_text() == "small"
    page.goto(pages.partition("/#")[0] + "/" + str(model.get_attribute("href")) + "/artifacts")
    page.get_by_text("adapter.safetensors").first.wait_for()


def test_the_comparison_opens_with_the_objective(pages: str, page: Any) -> None:
    page.goto(_comparison(pages))
    page.get_by_text("Parallel Coordinates Plot").wait_for()
    axes = page.locator("svg .axis-title")
    axes.last.wait_for()
    assert axes.all_text_contents()[-1] == "val_mean_accuracy"
    assert page.locator("svg").get_by_text("n_seeds", exact=True).count() == 0


def test_four_configurations_are_compared_by_what_differs_and_what_was_measured(pages: str, page: Any) -> None:
    page.goto(_comparison(pages))
    for name in ("learning_rate", "method", "val_mean_accuracy", "val_mean_accuracy_std", "n_seeds"):
        page.get_by_text(name, exact=True).first.wait_for()
    for value in ("0.1", "0.2", "gallop", "random"):
        page.get_by_text(value, exact=True).first.wait_for()


def test_the_sweep_says_the_verdict_and_its_report_renders(pages: str, page: Any) -> None:
    (sweep,) = _runs(pages, "sweep")
    page.goto(f"{pages.partition('?')[0]}/{sweep.info.run_id}")
    page.get_by_text("random is best.").first.wait_for()
    address = page.get_by_role("link", name="The report").get_attribute("href")
    page.goto(pages.partition("/#")[0] + "/" + address)
    page.frame_locator("iframe").get_by_role("heading", name="The report of small").wait_for()
