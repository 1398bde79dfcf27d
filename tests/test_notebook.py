"""The example notebooks do what they show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.library.test_alone import HIDE

ROOT = Path(__file__).parents[1]
OF_SWEEPS = {"datasets", "deepspeed", "mlflow", "optuna", "peft", "ray"}


def run(notebook: str, folder: Path, before: str = "", after: str = "") -> None:
    """Run a notebook's cells in a folder, with code before and after them."""
    cells = json.loads((ROOT / "docs" / notebook).read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    program = "\n".join([before, *code, after])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=env, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.long
def test_the_notebook_of_a_sweep_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    (tmp_path / "sweeps").symlink_to(ROOT / "sweeps")
    run("notebook.ipynb", tmp_path, after='assert len(frame) == 16; assert set(frame["status"]) == {"finished"}')
    assert (tmp_path / "runs" / "notebook" / "report" / "report.html").exists()


def test_the_notebook_of_the_library_runs_without_what_sweeps_need(tmp_path: Path) -> None:
    learnt = "assert trained < base - 0.5, (trained, base); assert abs(loaded - trained) < 1e-6"
    run("library.ipynb", tmp_path, HIDE.format(hidden=OF_SWEEPS), learnt)
