"""What is measured of a model, with a task that is answered with a number."""

import json
from pathlib import Path
from typing import Any

import pytest

from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.metrics import summarize
from gallop_ray.tasks.text import load_text
from gallop_ray.training.measure import Measured, measure
from gallop_ray.training.resident import LoadedModel, load_tasks
from tests.training import tiny


def write(folder: Path) -> None:
    """`sums` is answered with numbers, `claims` with true or false."""
    for split, count in (("train", 4), ("validation", 5), ("test", 7)):
        sums, claims = folder / f"sums.{split}.jsonl", folder / f"claims.{split}.jsonl"
        with sums.open("w") as some, claims.open("w") as others:
            for i in range(count):
                question = {"instruction": f"max {i} and {i}?", "input": "", "output": f"{i} + {i} = {2 * i}."}
                some.write(json.dumps({**question, "answer": f"{2 * i}.0"}) + "\n")
                claim = {"instruction": f"is it {i}?\nAnswer format: true/false", "input": "", "output": "it is true"}
                others.write(json.dumps({**claim, "answer": "true"}) + "\n")


def sweep(root: Path, **evaluation: Any) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "tiny",
            "model": {"name": "tiny"},
            "data": {"root": str(root), "train": "sums", "ood": ["claims"]},
            "methods": [{"type": "gallop"}],
            "deepspeed": {"zero_stage": 0},
            "training": {"max_length": 64},
            "evaluation": {"batch_size": 3, "max_new_tokens": 6, "text": "generated", "text_examples": 8, **evaluation},
        }
    )


def measured(asked: Sweep) -> Measured:
    model, tokenizer = tiny.of_pocket_vocabulary()
    parameters = sum(p.numel() for p in model.parameters())
    text = load_text(asked, tokenizer)
    return measure(LoadedModel(asked, model, tokenizer, "tiny", parameters, load_tasks(asked), [], text=text), model)


def test_a_task_without_options_counts_by_what_was_generated(ranks: Any, tmp_path: Path) -> None:
    write(tmp_path)
    found = measured(sweep(tmp_path))
    assert {task: {split: list(ways) for split, ways in splits.items()} for task, splits in found.correct.items()} == {
        "sums": {"validation": ["generated"], "test": ["generated"]},
        "claims": {"validation": ["likelihood", "loss", "margin"], "test": ["likelihood", "generated"]},
    }
    assert [len(found.correct["sums"][split]["generated"]) for split in ("validation", "test")] == [5, 7]
    metrics = summarize(found.accuracies, found.accuracies, "sums", ["claims"])
    assert metrics["id_accuracy"] == metrics["id_accuracy_generated"] == found.accuracies["sums"]["test"]["generated"]
    assert metrics["val_mean_accuracy"] is not None
    assert found.outputs["sums"]["examples"] == 7
    assert found.text_loss is not None
    assert ranks(2)(measured, sweep(tmp_path)) == [found] * 2


def test_numbers_without_generation_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=r"task sums has no answer options, .* set evaluation.generate to true"):
        load_tasks(sweep(tmp_path, generate=False))
