"""The command as a user runs it: in a process of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TINY: dict[str, Any] = {
    "name": "tiny",
    "model": {"name": "pocket"},
    "data": {
        "root": "generated",
        "train": "range",
        "ood": ["max", "first"],
        "limits": {"train": 64, "validation": 16, "test": 16},
    },
    "methods": [{"type": "gallop", "density": 0.05}, {"type": "random"}, {"type": "lora"}, {"type": "full"}],
    "seeds": 2,
    "search": {"space": {"gallop.density": {"choice": [0.01, 0.05]}}},
    "budget": {"configurations": 2},
    "training": {"steps": 4, "batch_size": 8, "micro_batch_size": 4, "max_length": 32, "learning_rate": 1e-3},
    "evaluation": {"max_new_tokens": 4},
    "resources": {"workers_per_slot": 2, "cpus_per_worker": 0.5, "slots": 1},
}


def write_sweep(folder: Path, **changes: Any) -> Path:
    """A sweep file whose records go below `folder`."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "output": str(folder / "runs"), **changes}))
    return path


def start(*arguments: str | Path, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """`gallop-ray ARGUMENTS` under way; it hears SIGINT also where the tests run in the background of a shell."""
    return subprocess.Popen(
        [sys.executable, "-m", "gallop_ray", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(*arguments: str | Path, timeout: float = 400) -> "subprocess.CompletedProcess[str]":
    """`gallop-ray ARGUMENTS` to its end."""
    process = start(*arguments)
    output, _ = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, output)
