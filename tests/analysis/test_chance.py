"""Whether the base model can do more than guess, beside scipy's exact test, and where it is said."""

from pathlib import Path

import pytest
from scipy.stats import binomtest

from gallop_ray.analysis.chance import at_chance, p_above
from gallop_ray.analysis.diagnoses import diagnoses
from gallop_ray.records.folders import SweepFolder
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
