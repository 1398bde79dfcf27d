"""Adapters of one base, put on a loaded model and taken off again: through the package's front door."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gallop_ray
from tests.exports.trained import Trained, logits, weights
from tests.training import tiny


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, gallop_ray, gallop_ray.cli; gallop_ray.apply_adapter; assert 'torch' not in sys.modules"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'remove_adapter'"):
        gallop_ray.remove_adapter  # noqa: B018


def test_adapters_are_swapped_in_place(trained: Trained) -> None:
    model = trained.load()
    base, said, storage = weights(model), logits(model), [p.data_ptr() for p in model.parameters()]
    outputs = {}
    for method in ("gallop", "random", "gallop"):
        applied = gallop_ray.apply_adapter(model, trained.run(method).adapter)
        tuned = logits(model)
        assert not torch.equal(tuned, said)
        assert torch.equal(tuned, outputs.setdefault(method, tuned)), "the same again after another was on"
        applied.remove()
        assert tiny.same(weights(model), base)
        assert torch.equal(logits(model), said)
    assert not torch.equal(outputs["gallop"], outputs["random"])
    assert [p.data_ptr() for p in model.parameters()] == storage, "in place"


def test_another_adapter_on_top_is_refused_and_changes_nothing(trained: Trained) -> None:
    model = trained.load()
    base = weights(model)
    applied = gallop_ray.apply_adapter(model, trained.run("gallop").adapter)
    tuned = weights(model)
    with pytest.raises(ValueError, match="with no other adapter applied"):
        gallop_ray.apply_adapter(model, trained.run("random").adapter)
    assert tiny.same(weights(model), tuned)
    applied.remove()
    assert tiny.same(weights(model), base)
