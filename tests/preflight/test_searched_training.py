"""Optimizers, schedules and target modules that are searched, tried before anything is spent."""

import pytest

from gallop_ray.cli.sweep_file import _refused_by_libraries
from gallop_ray.preflight.sweep_checks import optimizer, tuners
from gallop_ray.spec.problems import dotted
from gallop_ray.spec.schema import Sweep


def sweep(**space: list[object]) -> Sweep:
    """Of a mask and LoRA, with choices for fields of the training, or of LoRA."""
    keys = {("lora." if field == "target_modules" else "training.") + field: each for field, each in space.items()}
    return Sweep.model_validate(
        {
            **{"name": "searched", "model": {"name": "pocket"}, "objective": {"metric": "val_id_accuracy"}},
            **{"data": {"root": "generated", "train": "range"}, "methods": [{"type": "random"}, {"type": "lora"}]},
            "search": {"space": {key: {"choice": values} for key, values in keys.items()}},
        }
    )


@pytest.mark.parametrize(
    ("field", "values", "said"),
    [
        ("optimizer", ["adamw", "adamww"], "torch has no 'adamww'; did you mean `adamw`?"),
        ("optimizer", ["adamw", "muon"], "muon cannot train the entries of a mask, a vector"),
        ("optimizer_options", [{"eps": 1e-6}, {"epz": 1e-6}], "'epz'"),
        ("schedule", ["linear", "no_such_module:f"], "there is no module no_such_module"),
    ],
)
def test_a_searched_value_is_tried_by_validate_and_doctor(field: str, values: list[object], said: str) -> None:
    searched = sweep(**{field: values})
    ((path, message),) = _refused_by_libraries(searched)
    assert dotted(path) == f"search.space.training.{field}"
    assert said in message
    (finding,) = optimizer(searched)
    assert said in finding.text


def test_what_torch_has_passes() -> None:
    searched = sweep(optimizer=["adamw", "sgd"], schedule=["linear", "cosine"])
    assert list(_refused_by_libraries(searched)) == list(optimizer(searched)) == []


def test_searched_modules_are_tried_by_doctor() -> None:
    (right, wrong) = tuners(sweep(target_modules=[["q_proj"], ["nowhere"]]))
    assert (right.level, wrong.level) == ("ok", "problem")
    assert "nowhere" in wrong.text
