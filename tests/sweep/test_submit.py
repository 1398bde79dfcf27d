"""The quickstart sweep through `ray job submit`, on a local head with token authentication."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gallop_ray.records.folders import SweepFolder
from tests.ray_head import RAY, ray_head
from tests.sweep.command import ROOT

_QUICK = (
    "training.steps=4",
    "resources.slots=1",
    "budget.configurations=1",
    "seeds=2",
    "data.limits={train: 64, validation: 16, test: 16}",
)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def head(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A head node's dashboard address, and the environment with the token that it asks for."""
    dashboard = _free_port()
    with ray_head(tmp_path, f"--port={_free_port()}", f"--dashboard-port={dashboard}", "--num-cpus=2") as head:
        yield f"http://127.0.0.1:{dashboard}", head.env


def _submit(address: str, env: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    entry = [sys.executable, "-m", "gallop_ray", *arguments]
    command = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--", *entry]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400, check=False)


def _wait_for(address: str, env: dict[str, str]) -> None:
    for _ in range(30):
        listing = [RAY, "job", "list", "--address", address]
        if subprocess.run(listing, env=env, capture_output=True, timeout=60, check=False).returncode == 0:
            return
    raise AssertionError("the head did not come up")


@pytest.mark.long
def test_quickstart_through_ray_job_submit(head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, env = head
    _wait_for(address, env)
    stranger = {k: v for k, v in env.items() if not k.startswith("RAY_AUTH")} | {"HOME": str(tmp_path)}
    assert _submit(address, stranger, "--version").returncode != 0, "without the token nothing is accepted"
    overrides = [part for value in (*_QUICK, f"output={tmp_path / 'runs'}") for part in ("--set", value)]
    done = _submit(address, env, "run", "sweeps/quickstart.yaml", *overrides)
    until = time.monotonic() + 60  # the head is up before its agent is
    while "No available agent" in done.stderr + done.stdout and time.monotonic() < until:
        time.sleep(2)
        done = _submit(address, env, "run", "sweeps/quickstart.yaml", *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    results = SweepFolder(tmp_path / "runs" / "quickstart").results()
    assert {result.method for result in results} == {"gallop", "random", "lora", "full"}
    assert [result.status for result in results] == ["finished"] * 8
