"""The examples by which weights are held: which ones, how many, and that a sweep depends on them."""

from pathlib import Path
from typing import Any

import pytest

from gallop_ray.analysis.advice import advice
from gallop_ray.preflight.task_checks import data
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.fisher import load_fisher
from tests.sweep import command

LIMITS = {"train": 60, "validation": 8, "test": 8}


def sweep(**data: Any) -> Sweep:
    limited = {"root": "generated", "train": "range", "ood": ["max"], "limits": LIMITS, **data}
    training = {"batch_size": 20, "micro_batch_size": 10, "max_length": 32, "ewc": 10}
    model = {"name": "pocket"}
    return Sweep.model_validate(
        {"name": "tiny", "model": model, "methods": [{"type": "gallop"}], "data": limited, "training": training}
    )


def test_they_are_training_examples_whatever_the_limits() -> None:
    many = load_fisher(sweep(fisher={"task": "first", "examples": 100}))
    few = load_fisher(sweep(fisher={"task": "first", "examples": 7}))
    assert many is not None
    assert few is not None
    assert (len(many.train), few.train) == (100, many.train[:7])


def test_there_have_to_be_enough(tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(f'{{"text": "{number} is a number"}}\n' for number in range(12)))
    asked = sweep(tasks={"text": {"source": str(text)}}, fisher={"task": "text"})
    with pytest.raises(ValueError, match=r"data.fisher takes 64 examples of text, but there are 10;"):
        load_fisher(asked)
    (problem,) = [each for each in data(asked) if "data.fisher" in each.text]
    assert problem.level == "problem"
    enough = sweep(tasks={"text": {"source": str(text)}}, fisher={"task": "text", "examples": 5})
    assert any("data.fisher: 5 examples of text say which" in each.text for each in data(enough))
    assert not any("text" in line for line in advice(enough)), "the task is used"


def test_a_task_that_is_kept_is_not_unknown() -> None:
    assert any("data.fisher keeps max" in line for line in advice(sweep(fisher={"task": "max"})))


@pytest.mark.slow
def test_a_sweep_holds_its_weights_and_is_not_continued_with_other_examples(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "methods": [{"type": "gallop", "density": 0.05}, {"type": "full"}, {"type": "lora"}],
        "seeds": 1,
        "data": {**command.TINY["data"], "fisher": {"task": "second", "examples": 8}},
        "search": {"space": {f"{name}.training.ewc": {"choice": [0, 10]} for name in ("gallop", "full")}},
        "budget": {"configurations": 2},
        "resources": {"workers_per_slot": 1, "cpus_per_worker": 0.5, "slots": 1},
    }
    path = command.write_sweep(tmp_path, **changes)
    done = command.run("run", path)
    assert done.returncode == 0, done.stdout
    results = list((tmp_path / "runs/tiny").glob("*/seed-*/result.json"))
    assert len(results) == 5, done.stdout
    assert "held by EWC to second" in (tmp_path / "runs/tiny/report/report.html").read_text()
    refused = command.run("run", path, "--set", "data.fisher={task: second, examples: 9}")
    assert refused.returncode == 2
    assert "data.fisher" in refused.stdout
