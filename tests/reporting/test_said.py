"""What models say, in the report, in MLflow and by `compare`: flips with McNemar's test, samples, differing answers."""

import csv
import json
from pathlib import Path

import pytest
from scipy.stats import binomtest

from gallop_ray.analysis.flips import Flips, flips, flips_from_base, mcnemar
from gallop_ray.analysis.ranking import best
from gallop_ray.cli import main
from gallop_ray.mlflow_mirror.mirror import MlflowMirror
from gallop_ray.mlflow_mirror.store import tracking_uri
from gallop_ray.records.predictions import write_predictions
from gallop_ray.records.run_folder import RunFolder
from tests.sweep.written import Written, small_sweep

BASE = {"range": "1100", "max": "1111"}
TUNED = {"gallop": ({"range": "1011", "max": "1110"}, {"range": "1111", "max": "1110"}),
         "random": ({"range": "1100", "max": "1111"}, {"range": "1000", "max": "1111"})}  # fmt: skip


def correct(digits: dict[str, str]) -> dict:
    return {task: {"test": {"likelihood": each, "generated": each}} for task, each in digits.items()}


def said(digits: dict[str, str], who: str) -> list[dict]:
    return [
        {"task": task, "example": place, "prompt": f"{task} <{place}>", "reference": "yes",
         "output": f"{who} says {digit}\nand more", "read": None, "right": digit == "1",
         "measured": {"likelihood": float(digit)}}
        for task, each in digits.items() for place, digit in enumerate(each)
    ]  # fmt: skip


def a_run(made: Written, method: str, seed: int, digits: dict[str, str], accuracy: float) -> RunFolder:
    run = made.begin(method, 0.1, seed)
    run.write("correct", correct(digits))
    run.write_predictions(said(digits, method), made.folder.base_predictions)
    run.adapter.write_bytes(b"it")
    made.end(run, accuracy)
    return run


@pytest.fixture
def made(tmp_path: Path) -> Written:
    """gallop gains two answers and loses one or two; random changes nothing, or loses one."""
    made = Written(small_sweep(tmp_path))
    base = {task: {"test": {"likelihood": 0.5, "generated": 0.5}} for task in BASE}
    made.folder.write_base(base, correct(BASE), {}, None, {}, said(BASE, "the base"))
    for method, accuracy in (("gallop", 0.8), ("random", 0.3)):
        for seed in (0, 1):
            a_run(made, method, seed, TUNED[method][seed], accuracy)
    made.folder.rebuild_results()
    return made


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 1), (12, 30), (7, 7)])
def test_mcnemars_test_is_the_binomial_test_of_what_changed(gained, lost):
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected)


def test_flips_are_of_what_is_right_or_wrong_alone():
    before = {"a": {"test": {"likelihood": "110", "generated": "000"}}, "b": {"test": {"loss": [1.0, 2.0]}}}
    after = {
        "a": {"test": {"likelihood": "011", "acc": "111", "generated": "001"}},
        "b": {"test": {"loss": [1.0, 1.0]}},
    }
    assert flips(before, after) == [
        Flips("a", "likelihood", 3, both=1, gained=1, lost=1, p=1.0),
        Flips("a", "generated", 3, both=0, gained=1, lost=0, p=1.0),
    ]
    assert flips({}, after) == []


def test_over_seeds_counts_are_means_and_p_is_the_largest(made: Written):
    found = flips_from_base(made.folder, made.sweep, best(made.folder.results(), made.sweep.objective))
    by = {(method, each.task, each.way): each for method, each in found}
    assert len(by) == 8
    one = by["gallop", "range", "likelihood"]
    assert (one.both, one.gained, one.lost, one.neither, one.p, one.seeds) == (1.5, 2, 0.5, 0, 1.0, 2)
    assert by["random", "range", "generated"].lost == 0.5


def test_the_report_has_flips_and_samples(made: Written, capsys):
    assert main(["report", str(made.folder.path)]) == 0
    folder = made.folder.path / "report"
    page = (folder / "report.html").read_text()
    assert 'id="said"' in page
    assert "Answers gained and lost" in page
    assert "range &lt;1&gt;" in page, "escaped"
    with (folder / "tables" / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    kinds = [(row["method"], row["task"], row["kind"]) for row in rows]
    assert {("gallop", "range", "lost"), ("gallop", "range", "gained"), ("gallop", "max", "right in both")} <= {*kinds}
    assert ("random", "max", "lost") not in kinds
    lost = next(row for row in rows if row["kind"] == "lost")
    assert lost["base_output"] == "the base says 1\nand more"


@pytest.mark.slow
def test_mlflow_has_them_as_tables_and_the_best_runs_predictions(made: Written, tmp_path: Path):
    thread = MlflowMirror(made.folder, made.sweep, tracking_uri(made.sweep))
    thread.start()
    assert thread.stop(timeout=100)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri(made.sweep))
    (experiment,) = client.search_experiments(filter_string="name = 'gallop_ray'")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`gallop_ray.level` = 'sweep'")
    tables = {each["path"] for each in json.loads(run.data.tags["mlflow.loggedArtifacts"])}
    assert tables == {"flips.json", "samples.json"}
    table = json.loads(Path(client.download_artifacts(run.info.run_id, "flips.json", str(tmp_path))).read_text())
    assert table["columns"][:2] == ["method", "task"]
    assert len(table["data"]) == 8
    assert {row[0] for row in table["data"]} == {"gallop", "random"}
    metrics = run.data.metrics
    assert {name: metrics[name] for name in ("val_mean_accuracy", "id_accuracy", "base/id_accuracy")} == {
        "val_mean_accuracy": 0.8, "id_accuracy": 0.8, "base/id_accuracy": 0.5,
    }  # fmt: skip
    view = json.loads(experiment.tags["mlflow.sharedViewState.gallop_ray"])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`val_mean_accuracy`", False)
    assert "predictions.jsonl" in {each.path for each in client.list_artifacts(run.info.run_id)}


def test_compare_says_what_one_alone_has_right(made: Written, capsys):
    runs = [str(next(run.path for run in made.folder.runs() if run.configuration.startswith(name) and run.seed == 0))
            for name in ("random", "gallop")]  # fmt: skip
    assert main(["compare", *runs, "--examples", "1"]) == 0
    shown = capsys.readouterr().out
    assert "ID accuracy, %: 30.0, 80.0 (+50.0 points)" in shown
    counts = "both right 1, first alone 1, second alone 2, neither 0; McNemar p = 1"
    assert f"range, accuracy by likelihood, 4 examples: {counts}" in shown
    assert shown.count("reference: yes") == 1
    assert (
        "first:     random says 1\n           and more  (right)\nsecond:    gallop says 1\n           and more  (right)"
        in shown
    )
    assert "7 more answers differ; --examples 8 shows all" in shown


def test_compare_refuses_runs_that_share_no_examples(made: Written, tmp_path: Path, capsys):
    other = Written(small_sweep(tmp_path / "other"))
    theirs = a_run(other, "gallop", 0, BASE, 0.5)
    mine = str(next(made.folder.runs()).path)
    assert main(["compare", mine, str(theirs.path)]) == 2
    assert "no task with the same test examples" in capsys.readouterr().err
    for folder, digest in ((made.folder, "one"), (other.folder, "one")):
        hashes = {"examples of": {"range": {"test": digest}, "max": {"test": folder.path.parent.name}}}
        (folder.path / "identity.json").write_text(json.dumps(hashes))
    assert main(["compare", mine, str(theirs.path)]) == 0
    shown = capsys.readouterr().out
    assert "max: left out" in shown
    assert "range, accuracy by likelihood" in shown
    assert "max <" not in shown
    assert main(["compare", mine, str(tmp_path / "none")]) == 2
    assert main(["compare", mine, mine, "--examples", "-1"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    for damage in ((theirs.path / "correct.json").unlink, lambda: (theirs.path / "correct.json").write_text("{")):
        damage()
        assert main(["compare", mine, str(theirs.path)]) == 2
        said = capsys.readouterr().err
        assert f"{theirs.path}/correct.json, which says what the run answered right, is missing or damaged" in said


def test_compare_leaves_out_metrics_that_are_not_the_same_number(made: Written, tmp_path: Path, capsys):
    mine = str(next(made.folder.runs()).path)

    def compared(name: str, base: str = "one", **data: object) -> str:
        other = Written(small_sweep(tmp_path / name, data={**made.sweep.data.model_dump(mode="json"), **data}))
        for folder, model in ((made.folder, "one"), (other.folder, base)):
            hashes = {"base model": model, "examples of": {task: {"test": task} for task in BASE}}
            (folder.path / "identity.json").write_text(json.dumps(hashes))
        run = a_run(other, "gallop", 0, BASE, 0.5)
        if name == "ways":
            run.write("correct", {**correct(BASE), "range": {"test": {"exact_match": BASE["range"]}}})
        assert main(["compare", mine, str(run.path)]) == 0
        return capsys.readouterr().out

    alike = compared("alike")
    assert "ID accuracy" in alike
    assert "left out" not in alike
    swapped = compared("swapped", train="max", ood=["range"])
    assert "metrics are left out: the two have other train tasks (range; max)" in swapped
    assert "ID accuracy" not in swapped
    assert "metrics are left out: range counts by likelihood in the first and by exact_match" in compared("ways")
    assert "changes from the base are left out: the two have other base models" in compared("base", base="another")


def test_samples_without_a_base_have_no_kind(tmp_path: Path, made: Written):
    run = next(made.folder.runs())
    write_predictions(run.path / "predictions.jsonl", said(BASE, "it"))
    assert main(["report", str(made.folder.path)]) == 0
