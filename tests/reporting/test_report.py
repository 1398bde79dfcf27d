"""The report of sweep folders: whole, in part and empty."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev

import pandas as pd
import pytest

from gallop_ray.analysis.frame import frame_of, results_frame
from gallop_ray.cli import main
from gallop_ray.errors import NothingToDrawError
from gallop_ray.records.files import parse_lines
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import RunResult
from gallop_ray.reporting.figures import plot_density, plot_front, plot_learning_rate
from gallop_ray.reporting.figures.style import PALETTE, method_styles
from gallop_ray.reporting.report.sheet import Cell, Column, ReportTable
from gallop_ray.spec.schema import Sweep
from tests.reporting.reported import NASTY, begin, reported_sweep, write_half_failed_sweep, write_sweep

pytestmark = pytest.mark.slow

_VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """The text of each table's cells, every id, every address, and whether all elements are closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.values: dict[str, list[list[str]]] = {}
        self.texts: dict[str, str] = {}
        self._table = self._section = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag == "table":
            self._table = found["id"].removeprefix("table-")
            self.tables[self._table], self.values[self._table] = [], []
        elif tag == "section":
            self._section = found["id"]
        elif tag == "tr":
            self.tables[self._table].append([])
            self.values[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")
            self.values[self._table][-1].append(found.get("data-value", ""))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "button"} & set(self.open[-2:]):
            self.tables[self._table][-1][-1] += data
        self.texts[self._section] = self.texts.get(self._section, "") + data


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[SweepFolder, Sweep, Page]:
    folder, sweep = write_sweep(tmp_path_factory.mktemp("whole"))
    assert main(["report", str(folder.path)]) == 0
    return folder, sweep, Page(folder.path / "report" / "report.html")


@pytest.fixture(scope="module")
def half(tmp_path_factory) -> tuple[SweepFolder, Page]:
    folder, _ = write_half_failed_sweep(tmp_path_factory.mktemp("half"))
    assert main(["report", str(folder.path)]) == 0
    return folder, Page(folder.path / "report" / "report.html")


@pytest.mark.slow
def test_the_page_is_whole_and_needs_nothing_else(whole, half):
    for page in (whole[2], half[1]):
        assert len(page.ids) == len(set(page.ids))
        assert page.addresses
        assert all(address.startswith(("#", "data:")) for address in page.addresses)
        targets = {f"#{each}" for each in page.ids}
        assert {address for address in page.addresses if address.startswith("#")} <= targets
    text = (whole[0].path / "report" / "report.html").read_text()
    assert "http" not in text.replace("https://***@example.org/mlflow", "")
    assert not re.search(r"@import|url\((?!#)", text)


def test_passwords_in_addresses_stay_at_home(whole):
    files = [path for path in (whole[0].path / "report").rglob("*") if path.is_file()]
    assert not any(b"secret" in path.read_bytes() for path in files)


def test_numbers_of_the_table_are_those_of_the_results(whole):
    folder, _, page = whole
    lines = parse_lines((folder.path / "results.jsonl").read_bytes()).records
    header, base, *rows = page.tables["best"]
    assert base[header.index("Method")] == "base model"
    assert base[header.index("OOD")] == "95.0"
    assert [row[0] for row in rows] == ["gallop", "lora", "random_mask"]
    for row, values in zip(rows, page.values["best"][2:], strict=True):
        runs = [line for line in lines if line["configuration"] == row[header.index("Configuration")]]
        assert len(runs) == 3
        for heading, field in (("ID", "id_accuracy"), ("OOD", "ood_accuracy"), ("Forget", "forget_ratio")):
            seen = [run[field] for run in runs]
            assert row[header.index(heading)] == f"{100 * fmean(seen):.1f} ± {100 * stdev(seen):.1f}"
            assert float(values[header.index(heading)]) == pytest.approx(fmean(seen), abs=1e-12)
    table = pd.read_csv(folder.path / "report" / "tables" / "best.csv").set_index("method")
    gallop = [line for line in lines if line["configuration"] == table.loc["gallop", "configuration"]]
    assert table.loc["gallop", "id_accuracy_std"] == pytest.approx(stdev(run["id_accuracy"] for run in gallop))
    assert table.loc["gallop", "density"] == 0.2
    every = pd.read_csv(folder.path / "report" / "tables" / "configurations.csv")
    assert len(every) == len({line["configuration"] for line in lines}) == 14
    assert len(page.tables["configurations"]) == 15


def test_the_base_model_has_its_loss_of_general_text_too(tmp_path):
    folder, _ = write_sweep(tmp_path)
    folder.write_base({task: {"test": {"likelihood": 0.5}} for task in ("range", "max", "min")}, {}, {}, 2.0)
    for run in folder.runs():
        run.write("result", {**(run.read("result") or {}), "text_loss": 2.5, "text_loss_increase": 0.5})
    folder.rebuild_results()
    assert main(["report", str(folder.path)]) == 0
    header, base, *rows = Page(folder.path / "report" / "report.html").tables["further"]
    assert base[header.index("Text loss") :][:2] == ["2.000", "0.000"]
    assert {tuple(row[header.index("Text loss") :][:2]) for row in rows} == {("2.500 ± 0.000", "0.500 ± 0.000")}


def test_thousands_of_rows_are_whole_in_the_csv_alone(tmp_path):
    sheet = ReportTable("long", "Long", "All.", (Column("N", "n"),), [[Cell(str(n), n)] for n in range(600)])
    sheet.write(tmp_path)
    assert list(pd.read_csv(tmp_path / "long.csv")["n"]) == list(range(600))
    latex = (tmp_path / "long.tex").read_text()
    assert (f"\n499 {2 * chr(92)}" in latex, "\n500 " in latex) == (True, False)
    assert sheet.text == "All. 100 more rows are in long.csv."
    assert len(sheet.listed) == 500


def test_every_figure_is_there_as_svg_png_and_in_the_page(whole):
    folder, _, page = whole
    names = {each.removeprefix("figure-") for each in page.ids if each.startswith("figure-")}
    assert names == {"differences", "density", "front", "learning_rate", "masks", "loss", "seeds", "cost"}
    figures = folder.path / "report" / "figures"
    assert {path.name for path in figures.iterdir()} == {f"{n}{suffix}" for n in names for suffix in (".svg", ".png")}
    text = (folder.path / "report" / "report.html").read_text()
    assert not any(colour in text.partition("<main>")[2] for colour in PALETTE), "colours are the page's variables"
    assert "ten finished configurations" in page.texts["search"]


def test_tables_come_as_latex_with_all_that_is_special_escaped(half):
    text = (half[0].path / "report" / "tables" / "ends.tex").read_text()
    row = next(line for line in text.splitlines() if "lost" in line)
    assert r"\& 50 \% of \$HOME\_x\textbackslash \{\} and more \\" in row
    assert text.count(r"\begin{") == text.count(r"\end{")


def test_csv_holds_what_was_said_to_the_letter(half):
    with (half[0].path / "report" / "tables" / "ends.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["reason"] == NASTY
    assert row["failure"] == "lost"


def test_a_sweep_that_is_half_done_says_so(half):
    _, page = half
    verdict = " ".join(page.texts["verdict"].split())
    assert "3 of 42 runs are over" in verdict  # the finished one, the failed one, and one that was spared
    assert "1 run failed or diverged" in verdict
    assert page.tables["ends"][1][0].startswith("gallop-")
    assert "density" not in page.texts, "one density makes no curve, and leaves no gap"
    assert "best" not in page.tables, "a configuration with a failed run is not the best"


def test_nothing_has_run_yet(tmp_path, capsys):
    sweep = reported_sweep(tmp_path)
    folder = SweepFolder(tmp_path / sweep.name)
    folder.create(sweep.model_dump(mode="json"))
    assert main(["report", str(folder.path)]) == 0
    page = Page(Path(capsys.readouterr().out.strip()))
    assert "No configuration has finished" in page.texts["verdict"]
    assert list(page.tables) == []
    begin(folder, sweep, "gallop", {"training.learning_rate": 0.001}, 0)
    assert main(["report", str(folder.path), "--output", str(tmp_path / "elsewhere" / "page.html")]) == 0
    Page(tmp_path / "elsewhere" / "page.html")


def files_in(folder: Path) -> dict[str, bytes]:
    return {each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_a_page_elsewhere_takes_and_removes_no_file_of_the_user(tmp_path, capsys):
    folder, _ = write_half_failed_sweep(tmp_path)
    paper = tmp_path / "paper"
    mine = ["figures/overlap.svg", "figures/cost.png", "tables/ends.csv", "verdict.txt", "other_files/notes.txt"]
    for name in mine:
        (paper / name).parent.mkdir(parents=True, exist_ok=True)
        (paper / name).write_text("mine")
    assert main(["report", str(folder.path), "--output", str(paper / "page.html")]) == 0
    found = files_in(paper)
    assert {name for name, content in found.items() if content == b"mine"} == set(mine)
    assert {"page_files/tables/ends.csv", "page_files/figures/cost.svg", "page_files/verdict.txt"} <= set(found)
    assert "lie in page_files/, in figures/ and tables/" in (paper / "page.html").read_text()
    assert main(["report", str(folder.path), "--output", str(paper / "page.html")]) == 0
    assert main(["report", str(folder.path), "--output", str(paper / "other.html")]) == 2
    assert "other_files, the place of the page's figures and tables" in capsys.readouterr().err
    assert not (paper / "other.html").exists()


def test_what_no_longer_holds_goes_with_the_next_report(tmp_path):
    folder, _ = write_half_failed_sweep(tmp_path)
    report = folder.path / "report"
    assert main(["report", str(folder.path)]) == 0
    (report / "tables" / "own.csv").write_text("mine")
    assert {"tables/ends.csv", "tables/ends.tex", "figures/cost.svg"} <= set(files_in(report))
    for run in folder.runs():
        shutil.rmtree(run.path)
    folder.rebuild_results()
    assert main(["report", str(folder.path)]) == 0
    names = set(files_in(report))
    assert "tables/own.csv" in names
    assert not {"tables/ends.csv", "tables/ends.tex", "figures/cost.svg"} & names


@pytest.mark.slow
def test_the_same_records_give_the_same_figures(whole):
    folder = whole[0]
    figures = folder.path / "report" / "figures"
    before = {path.name: path.read_bytes() for path in figures.glob("*.svg")}
    assert main(["report", str(folder.path)]) == 0
    assert {path.name: path.read_bytes() for path in figures.glob("*.svg")} == before


def test_what_is_no_sweep_or_no_page_is_refused(tmp_path, whole, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert main(["report", str(whole[0].path), "--output", str(tmp_path)]) == 2
    assert "must be an .html file" in capsys.readouterr().err


def test_density_curves_are_means_with_bands_of_one_deviation(whole):
    folder, sweep, _ = whole
    figure = plot_density(results_frame(folder, sweep), metrics=["id_accuracy"])
    (axes,) = figure.axes
    gallop, random = (line for line in axes.lines if len(line.get_xdata()) == 3)
    lines = [
        line for line in parse_lines((folder.path / "results.jsonl").read_bytes()).records if line["method"] == "gallop"
    ]
    for density, mean, (low, high) in zip(
        gallop.get_xdata(), gallop.get_ydata(), _bands(axes.collections[0]), strict=True
    ):
        seen = [
            100 * line["id_accuracy"]
            for line in lines
            if line["density"] == density / 100 and line["learning_rate"] == 0.001
        ]
        assert (mean, low, high) == pytest.approx((fmean(seen), fmean(seen) - stdev(seen), fmean(seen) + stdev(seen)))
    assert random.get_color() != gallop.get_color()


def _bands(collection):
    points = collection.get_paths()[0].vertices
    at = sorted({x for x, _ in points})
    return [(min(y for x, y in points if x == each), max(y for x, y in points if x == each)) for each in at]


def test_figures_say_what_they_lack():
    written = {"configuration": "full-a", "seed": 0, "method": "full", "status": "finished", "val_mean_accuracy": 0.5,
               "id_accuracy": 0.5, "forget_ratio": 0.1, "density": 1.0, "learning_rate": 1e-3}  # fmt: skip
    runs = [RunResult.model_validate(written)]
    for draw, missing in (
        (plot_density, "two densities"),
        (plot_front, "fewer than two configurations"),
        (plot_learning_rate, "two learning rates"),
    ):
        with pytest.raises(NothingToDrawError, match=missing):
            draw(frame_of(runs))
        with pytest.raises(NothingToDrawError, match="no run has finished"):
            draw(frame_of([]))


def test_seventeen_methods_look_different():
    styles = method_styles(map(str, range(17)))
    assert len({(each.colour, each.marker) for each in styles.values()}) == 17


def test_a_name_cannot_break_out_of_a_table():
    sheet = ReportTable(
        "x", "X", "100 % of a_b", [Column("A & B", "a", numeric=False)], [[Cell("wise_ft ± 1", "wise_ft")]]
    )
    latex = sheet.latex()
    assert r"A \& B" in latex
    assert r"wise\_ft $\pm$ 1" in latex
    assert r"\caption{100 \% of a\_b}" in latex
    assert json.loads(sheet.exact().to_json(orient="values")) == [["wise_ft"]]
