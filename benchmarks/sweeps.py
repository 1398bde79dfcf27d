"""A sweep run by the command line, and the same configurations run by a rival, each in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from gallop_ray.records.folders import SweepFolder

_ROOT = Path(__file__).parents[1]
_ELSEWHERE = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")  # all arms stay on this machine


@dataclass(frozen=True)
class Ran:
    """The seconds from the start of the process to its end, and the records of its runs."""

    seconds: float
    folder: SweepFolder

    @property
    def bytes(self) -> int:
        """The largest memory that a process held during a run."""
        return max(int(result.peak_memory_bytes or 0) for result in self.folder.results())


def run_ours(place: Path, sweep: dict[str, Any]) -> Ran:
    """`gallop-ray run`, with one worker."""
    resources = {"workers_per_slot": 1, "gpus_per_worker": int(torch.cuda.is_available()), "slots": 1}
    document = {
        **sweep,
        "output": str(place),
        "resources": {**resources, **sweep["resources"]},
        "tracking": {"uri": f"sqlite:///{place}/mlflow.db"},
    }
    path = place / "sweep.yaml"
    path.write_text(yaml.safe_dump(document))
    return Ran(_run(place / "ours.log", "gallop_ray", "run", str(path)), SweepFolder(place / sweep["name"]))


def run_rival(place: Path, module: str, ours: Ran, configurations: int | None = None) -> Ran:
    """`python -m MODULE FOLDER`, the folder holding what ours was asked, but no runs.

    What measuring the base model finds is put there, too, so that its runs can be told how much they forget.
    """
    folder = SweepFolder(place / module)
    folder.create(ours.folder.spec())
    folder.write_base(ours.folder.base() or {}, {}, {}, ours.folder.base_text_loss())
    for asked in ours.folder.configurations()[:configurations]:
        folder.configuration(asked.key).create(asked.configuration().sections())
    return Ran(_run(place / f"{module}.log", module, str(folder.path)), folder)


def run_elsewhere(
    log: Path, sweep: Path, output: str, folder: SweepFolder, variables: Mapping[str, str] | None = None
) -> Ran:
    """`gallop-ray run` of a sweep file as it is, but for its output, of which the records are in the folder."""
    return Ran(_run(log, "gallop_ray", "run", str(sweep), "--set", f"output={output}", variables=variables), folder)


def _run(log: Path, module: str, *arguments: str, variables: Mapping[str, str] | None = None) -> float:
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE} | dict(variables or {})
    command = [sys.executable, "-m", module, *arguments]
    begun = time.perf_counter()
    with log.open("w") as output:
        ended = subprocess.run(
            command, cwd=_ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {ended.returncode}:\n{log.read_text()[-6000:]}")
    return time.perf_counter() - begun
