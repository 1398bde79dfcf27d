"""Sweeps in a bucket through the command, on machines whose disks can be lost."""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess, Popen
from typing import Any

from safetensors.torch import load_file

from gallop_ray.disk.tensors import metadata_of
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder
from tests.bucket.server import BUCKET, objects, variables
from tests.faults import books
from tests.faults.victims import _kill_family
from tests.sweep import command

SMALL: dict[str, Any] = {
    "methods": [{"type": "gallop", "density": 0.05}, {"type": "random"}],
    "seeds": 1,
    "data": {**command.TINY["data"], "ood": ["max"]},
    "search": {"space": {"gallop.density": {"choice": [0.05]}}},
    "budget": {"configurations": 1},
    "training": {**command.TINY["training"], "checkpoint_steps": 2},
    "resources": {"workers_per_slot": 1, "cpus_per_worker": 0.5, "slots": 1},
}
_PATIENCE = 600.0


@dataclass
class Machines:
    """One machine after another, each with copies of its own; and the bucket that they share."""

    tmp: Path
    endpoint: str
    server: str
    """The endpoint for looking from outside."""
    changes: dict[str, Any] = field(default_factory=dict)
    number: int = 0

    def __post_init__(self) -> None:
        self.address = f"s3://{BUCKET}/{self.tmp.name}"
        self.tmp.mkdir(exist_ok=True)
        self.sweep = command.write_sweep(self.tmp, **{**SMALL, **self.changes, "output": self.address})

    @property
    def env(self) -> dict[str, str]:
        """The environment of commands on the present machine."""
        return {**variables(self.endpoint), "GALLOP_RAY_BUCKET_CACHE": str(self.copies)}

    @property
    def copies(self) -> Path:
        """The present machine's copies."""
        return self.tmp / f"machine-{self.number}"

    def lose(self) -> None:
        """The present machine is lost with its disk; another one takes its place."""
        shutil.rmtree(self.copies, ignore_errors=True)
        self.number += 1

    def start(self, *arguments: str | Path) -> "Popen[str]":
        """A command under way on the present machine."""
        return command.start(*arguments, env=self.env)

    def run(self, *arguments: str | Path) -> "CompletedProcess[str]":
        """A command to its end."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=_PATIENCE)
        return CompletedProcess(process.args, process.returncode, output)

    def objects(self) -> dict[str, bytes]:
        """The sweep's objects by their keys below the sweep."""
        prefix = f"{self.tmp.name}/tiny/"
        return {key.removeprefix(prefix): data for key, data in objects(self.server, prefix).items()}

    def kill_when(self, moment: Callable[[], bool]) -> bool:
        """Run until the moment comes, and kill the whole machine. False where the sweep ended before."""
        process = self.start("run", self.sweep)
        until = time.monotonic() + _PATIENCE
        while not moment():
            if process.poll() is not None:
                output = process.communicate()[0]
                assert process.returncode == 0, output
                return False
            assert time.monotonic() < until
            time.sleep(0.02)
        _kill_family(process)
        return True

    def downloaded(self, folder: Path) -> SweepFolder:
        """The sweep as it lies in the bucket, fetched from outside."""
        for key, data in self.objects().items():
            path = folder / "tiny" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return SweepFolder(folder / "tiny")


def on_a_folder(tmp: Path, changes: Mapping[str, Any] | None = None) -> SweepFolder:
    """The same sweep with a folder as its output."""
    tmp.mkdir()
    sweep = command.write_sweep(tmp, **{**SMALL, **(changes or {})})
    done = command.run("run", sweep, timeout=_PATIENCE)
    assert done.returncode == 0, done.stdout
    return SweepFolder(tmp / "runs" / "tiny")


def check_same(found: SweepFolder, plain: SweepFolder) -> None:
    """Every run once, with the same outcome, mask, adapter and answers, bit for bit."""
    assert books.outcomes(found) == books.outcomes(plain)
    lines = [json.loads(line) for line in (found.path / "results.jsonl").read_text().splitlines()]
    assert sorted(line["configuration"] for line in lines) == sorted(each.key for each in plain.configurations())
    for run in plain.runs():
        theirs = found.run(run.configuration, run.seed)
        assert _adapter(theirs) == _adapter(run)
        for name in ("mask.json", "correct.json", "outputs.json", "predictions.jsonl"):
            if (run.path / name).exists():
                assert _read(theirs.path / name) == _read(run.path / name), f"{run.path.name}/{name}"
        assert not (theirs.path / "checkpoint.safetensors").exists()
    assert (found.path / "base.json").read_bytes() == (plain.path / "base.json").read_bytes()


def _adapter(run: RunFolder) -> tuple[dict[str, bytes], dict[str, str]]:
    """Tensors and metadata, whose order in the file differs from one writing to the next."""
    tensors = {name: tensor.numpy().tobytes() for name, tensor in load_file(run.adapter).items()}
    return tensors, metadata_of(run.adapter)


def _read(path: Path) -> bytes:
    return path.read_bytes()


def planted(folder: Path) -> list[Path]:
    """Files below a folder that hold the bucket's secret key."""
    secret = variables("")["AWS_SECRET_ACCESS_KEY"].encode()
    files = [Path(place) / name for place, _, names in os.walk(folder) for name in names]
    return [file for file in files if file.is_file() and secret in file.read_bytes()]
