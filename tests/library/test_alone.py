"""Masks need torch and nothing of what a sweep needs beside it."""

import subprocess
import sys

import pytest

OTHERS = ("accelerate", "datasets", "deepspeed", "mlflow", "optuna", "peft", "ray", "transformers")


@pytest.mark.parametrize("module", ["gallop_ray.sparse", "gallop_ray.methods"])
def test_importing_it_imports_none_of_the_others(module: str) -> None:
    program = f"import sys, {module}; print(*sorted(sys.modules.keys() & {set(OTHERS)!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
