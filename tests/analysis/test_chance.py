"""Whether the base model can do more than guess, beside scipy's exact test, and where it is said."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest
from scipy.stats import binomtest

from gallop_ray.analysis.chance import AboveChance, above_chance, at_chance, p_above
from gallop_ray.analysis.diagnoses import diagnoses
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import EndedRun, RunResult
from gallop_ray.reporting.report.material import gather
from gallop_ray.reporting.report.results import further_sheet
from gallop_ray.spec.schema import Sweep
from tests.reporting.reported import write_sweep


@pytest.mark.parametrize("right", [0, 1, 30, 41, 120])
@pytest.mark.parametrize("level", [0.25, 0.5, 0.3125])
def test_the_test_is_scipys_exact_one(right: int, level: float) -> None:
    expected = binomtest(right, 120, level, alternative="greater").pvalue
    assert p_above(right, 120, level) == pytest.approx(expected, rel=1e-9)


def write_base(folder: SweepFolder, tested: str = "", **right: float) -> None:
    """The base model's shares of right validation answers, 100 examples of 4 options a task; each test answer."""
    tasks = {task: {"validation": {"likelihood": share}, "test": {"likelihood": 0.5}} for task, share in right.items()}
    correct = {task: {"test": {"likelihood": tested}} for task in right if tested}
    folder.write_base(tasks, correct, {}, None, {task: {"level": 0.25, "examples": 100} for task in right})


def test_tasks_at_chance_are_named_wherever_results_are_shown(tmp_path: Path) -> None:
    folder, sweep = write_sweep(tmp_path, seeds=2)
    assert at_chance(folder, sweep) == []  # what was recorded says nothing of chance
    write_base(folder, range=0.25, max=0.32, min=0.33)
    (found,) = at_chance(folder, sweep)
    assert (found.task, found.right, found.examples, found.level) == ("max", 32, 100, 0.25)
    assert found.p == pytest.approx(binomtest(32, 100, 0.25, alternative="greater").pvalue)
    (said,) = [each.text for each in diagnoses(folder, sweep) if each.kind == "at chance"]
    assert said.startswith("max: forgetting cannot be measured here (the base model has 32 of 100 ")
    assert "exact binomial test, p = 0.069" in said


def test_few_validation_examples_decide_together_with_those_of_the_test(tmp_path: Path) -> None:
    folder, sweep = write_sweep(tmp_path, seeds=2)
    write_base(folder, tested="10" * 20, range=0.25, max=0.32, min=0.33)
    assert at_chance(folder, sweep) == []
    write_base(folder, tested="1000" * 20, range=0.25, max=0.32, min=0.33)
    (found, *_) = at_chance(folder, sweep)
    assert (found.task, found.right, found.examples) == ("max", 52, 180)
    assert found.p == pytest.approx(binomtest(52, 180, 0.25, alternative="greater").pvalue)


def a_run(**tuned: float) -> EndedRun:
    measured = {f"tasks_{task}_test_likelihood": value for task, value in tuned.items()}
    return EndedRun.model_validate({"configuration": "a", "method": "a", "status": "finished", **measured})


def test_who_guesses_has_lost_all_that_was_above_chance() -> None:
    """0.5 and 0.9 where guessing gives 0.25 and 0.5: 0.65 beyond it."""
    above = AboveChance({"max": 0.5, "min": 0.9}, {"max": 0.25, "min": 0.5})
    assert above.lost(a_run(max=0.25, min=0.5)) == pytest.approx(1.0)
    assert above.lost(a_run(max=0.5, min=0.9)) == 0.0
    assert above.lost(a_run(max=0.4, min=0.8)) == pytest.approx(0.2 / 0.65)
    assert above.lost(a_run(max=0.9, min=0.9)) == 0.0
    assert above.lost(a_run(max=0.5)) is None
    assert AboveChance({}, {}).lost(a_run(max=0.5)) is None


def test_the_report_has_it_of_the_tasks_above_chance(tmp_path: Path) -> None:
    folder, sweep = write_sweep(tmp_path, seeds=2)
    write_base(folder, range=0.5, max=0.32, min=0.9)
    assert above_chance(folder, sweep) == AboveChance({"min": 0.5}, {"min": 0.25})
    sheet = further_sheet(gather(folder, sweep))
    assert sheet is not None
    (place,) = [n for n, column in enumerate(sheet.columns) if column.field == "lost_above_chance"]
    assert sheet.columns[place].note.endswith("min")
    row = sheet.rows[1]
    runs = [run for run in folder.results() if run.method == row[0].value and run.finished]
    assert row[place].value in [pytest.approx(mean) for mean in means(runs, base=0.5, level=0.25)]


def means(runs: Sequence[RunResult], base: float, level: float) -> list[float]:
    """Of each configuration."""
    lost: dict[str, list[float]] = {}
    for run in runs:
        lost.setdefault(run.configuration, []).append(
            max(0, (base - run.tasks["min"]["test"]["likelihood"]) / (base - level))
        )
    return [fmean(each) for each in lost.values()]


def test_the_task_trained_on_may_be_at_chance(tmp_path: Path) -> None:
    sweep = Sweep.model_validate(
        {
            "name": "new",
            "output": str(tmp_path),
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": "range", "ood": ["max"]},
            "methods": [{"type": "gallop"}],
        }
    )
    folder = SweepFolder(tmp_path / "new")
    folder.create(sweep.model_dump(mode="json"))
    assert at_chance(folder, sweep) == []
    write_base(folder, range=0.2, max=0.9)
    assert at_chance(folder, sweep) == []
