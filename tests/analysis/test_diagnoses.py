"""What qualifies a result is said in every place that shows it, and only where it is so."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gallop_ray.analysis.diagnoses import _fall, diagnoses
from gallop_ray.analysis.learning import learning
from gallop_ray.analysis.ranking import best
from gallop_ray.analysis.statistics import sweep_statistics
from gallop_ray.cli import main
from gallop_ray.mlflow_mirror.artifacts import _description
from gallop_ray.records.folders import SweepFolder
from gallop_ray.reporting.report.material import gather
from gallop_ray.reporting.report.notes import notes
from gallop_ray.reporting.summary import print_summary
from tests.sweep.written import Written, small_sweep

SEEDS = (0, 1, 2)
EXAMPLES = 100
BASE = {"id_accuracy": 0.3, "ood_accuracy": 0.5}


def digits(share: float, shift: int = 0) -> str:
    """So many of the examples are right, others at each shift."""
    right = round(share * EXAMPLES)
    return "".join("1" if (i + shift) % EXAMPLES < right else "0" for i in range(EXAMPLES))


def answers(id_share: float, ood_share: float, shift: int = 0) -> dict[str, Any]:
    of = {"range": id_share, "max": ood_share}
    return {
        task: {split: {"likelihood": digits(share, shift)} for split in ("test", "validation")}
        for task, share in of.items()
    }


def a_sweep(
    tmp: Path,
    shares: Mapping[str, Sequence[float]],
    metrics: Mapping[str, float] | None = None,
    losses: Sequence[float] = (),
    ood: Sequence[str] = ("max",),
    **base: float,
) -> Written:
    """Methods with these ID accuracies by seed; `metrics` of every run, and the losses of its steps."""
    data = {"root": "generated", "train": "range", "ood": list(ood)}
    made = Written(small_sweep(tmp, seeds=list(SEEDS), data=data))
    start = {**BASE, **base}
    of = {"range": start["id_accuracy"], "max": start["ood_accuracy"]}
    test = {task: {"likelihood": share, "generated": base.get("generated", share)} for task, share in of.items()}
    tasks = {task: {"test": ways, "validation": {"likelihood": of[task]}} for task, ways in test.items()}
    made.folder.write_base(tasks, answers(of["range"], of["max"]), {}, None)
    for method, rate in (("gallop", 0.1), ("random", 1e-4)):
        for seed, share in zip(SEEDS, shares[method], strict=True):
            run = made.begin(method, rate, seed)
            with run.metrics.open("a") as file:
                for step, loss in enumerate(losses, 1):
                    file.write(json.dumps({"time": 1.0 * step, "event": "step", "step": step, "loss": loss}) + "\n")
            made.end(run, share)
            result = json.loads((run.path / "result.json").read_text())
            more = {
                "val_id_accuracy": share,
                "ood_accuracy": start["ood_accuracy"],
                "forget_ratio": 0.0,
                **(metrics or {}),
            }
            (run.path / "result.json").write_text(json.dumps({**result, "id_accuracy": share, **more}))
            run.write("correct", answers(share, start["ood_accuracy"], seed))
    made.folder.rebuild_results()
    return made


LEARNT = {"gallop": (0.8, 0.81, 0.79), "random": (0.7, 0.71, 0.69)}


def places(made: Written, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What each place says, on one line."""
    shown = {"report": "\n".join(notes(gather(made.folder, made.sweep)))}
    capsys.readouterr()
    print_summary(made.folder, made.sweep)
    shown["table"] = capsys.readouterr().out
    for command in ("best", "status"):
        assert main([command, str(made.folder.path)]) == 0
        shown[command] = capsys.readouterr().out
    store: Any = None  # of which the description needs the addresses of files that are not there
    shown["mlflow"] = _description(made.folder, made.sweep, store, "run", None)
    return {place: " ".join(text.split()) for place, text in shown.items()}


def kinds(made: Written) -> list[str]:
    return [each.kind for each in diagnoses(made.folder, made.sweep) if each.kind != "at an edge"]


@pytest.mark.parametrize(
    ("case", "kind", "said"),
    [
        (
            {"shares": {"gallop": (0.31, 0.30, 0.32), "random": (0.30, 0.29, 0.31)}},
            "nothing learnt",
            "apart from the base model by ID accuracy on test sets (base model 30.0 %, gallop 31.0 %)",
        ),
        (
            {"shares": LEARNT, "metrics": {"id_accuracy_generated": 0.0}},
            "ways disagree",
            "gallop has ID accuracy 80.0 % by likelihood and 0.0 % by generation",
        ),
        (
            {"shares": {**LEARNT, "gallop": (0.95, 0.6, 0.94)}},
            "seeds disagree",
            "gallop has ID accuracy from 60.0 % to 95.0 %",
        ),
        (
            {"shares": LEARNT, "metrics": {"val_id_accuracy": 0.99}},
            "validation and test disagree",
            "gallop has ID accuracy 99.0 % on the validation set and 80.0 % on the test set",
        ),
        (
            {"shares": LEARNT, "losses": [2.0 - 0.05 * step for step in range(20)]},
            "learning unfinished",
            "the training loss of gallop was still falling at its end, by 15 % over the last fifth of the steps",
        ),
        (
            {"shares": LEARNT, "metrics": {"train_examples": 90, "cut_examples": 12, "dropped_examples": 3}},
            "examples too long",
            "of 93 training examples 12 were cut and 3 were left out, being longer than training.max_length",
        ),
        (
            {"shares": LEARNT, "ood": ()},
            "forgetting not measured",
            "forgetting was not measured: add tasks to data.ood, for example capitals",
        ),
        (
            {"shares": LEARNT, "generated": 0.0},
            "nothing to forget",
            "by generation the base model's OOD accuracy is 0.0 %",
        ),
    ],
    ids=lambda each: each.replace(" ", "-") if isinstance(each, str) and len(each) < 30 else "",
)
def test_each_is_said_in_all_places(tmp_path: Path, capsys, case: dict[str, Any], kind: str, said: str) -> None:
    made = a_sweep(tmp_path, **case)
    assert kind in kinds(made)
    shown = places(made, capsys)
    assert [place for place, text in shown.items() if said not in text] == []


def test_where_nothing_is_amiss_nothing_is_said(tmp_path: Path) -> None:
    flat = [1.0 + 0.01 * (step % 3) for step in range(20)]
    assert kinds(a_sweep(tmp_path, LEARNT, losses=flat)) == []


def test_what_has_learnt_nothing_is_never_ahead(tmp_path: Path) -> None:
    made = a_sweep(tmp_path, {"gallop": (0.31, 0.30, 0.32), "random": (0.20, 0.20, 0.20)})
    verdict = sweep_statistics(made.folder, made.sweep).verdict
    assert verdict is not None
    assert verdict.outcome == "nothing learnt"
    assert verdict.text.startswith("Nothing learnt: no method is told apart from the base model")
    assert "ahead" not in verdict.text


def test_one_that_learns_is_told_from_one_that_does_not(tmp_path: Path) -> None:
    made = a_sweep(tmp_path, {"gallop": (0.8, 0.81, 0.79), "random": (0.31, 0.30, 0.32)})
    found = learning(made.folder, made.sweep, best(made.folder.results(), made.sweep.objective))
    assert found is not None
    assert (found.learnt, found.not_learnt) == (("gallop",), ("random",))
    assert "nothing learnt" not in kinds(made)


@pytest.mark.parametrize(("examples", "said"), [(20, False), (200, True)])
def test_sets_disagree_only_beyond_what_so_few_examples_do_by_chance(tmp_path: Path, examples: int, said: bool) -> None:
    """60 % and 45 % of 20 examples each are one set's chance (exact test p = 0.53); of 200 each they are not."""
    made = a_sweep(tmp_path, LEARNT, {"val_id_accuracy": 0.6, "id_accuracy": 0.45})
    for run in made.folder.runs():
        sets = {split: {"likelihood": "1" * examples} for split in ("validation", "test")}
        run.write("correct", {"range": sets, "max": sets})
    assert ("validation and test disagree" in kinds(made)) is said
    for run in made.folder.runs():
        (run.path / "correct.json").unlink()
    assert "validation and test disagree" not in kinds(made), "how many examples there are is not known"


@pytest.mark.parametrize(("last", "fall"), [(1.0, None), (0.5, 0.5)])
def test_each_round_has_its_own_end(tmp_path: Path, last: float, fall: float | None) -> None:
    """Each of two rounds begins at 5 and is flat long before its end, or falls once more in the last fifth."""
    run = Written(small_sweep(tmp_path)).begin("gallop", 0.1, 0)
    for task in ("range", "max"):
        run.round(task).path.mkdir()
        (run.round(task).path / "spec.json").write_text("{}")
        for step in range(25):
            loss = 5.0 if step < 5 else last if step >= 20 and task == "range" else 1.0
            run.event("step", step=step, loss=loss, round=task)
    assert _fall(SweepFolder(tmp_path / "small"), run.configuration, 0) == fall
