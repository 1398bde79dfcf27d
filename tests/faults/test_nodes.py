"""Two nodes, of which one has a private folder where the other has the output: it is named before anything is spent."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from tests.ray_head import RAY

pytestmark = pytest.mark.faults
SWEEP = """\
name: a
output: {output}
model: {{name: pocket}}
data: {{root: generated, train: range}}
methods: [{{type: full}}]
"""


@contextmanager
def second_node(address: str, private: Path) -> Iterator[None]:
    """A raylet in a mount namespace of its own, in which this folder is another."""
    joined = f"mount -t tmpfs none {private} && exec {RAY} start --address={address} --num-cpus=1 --block"
    process = psutil.Popen(["unshare", "-m", "sh", "-c", joined], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        for each in [*process.children(recursive=True), process]:
            each.kill()
        process.wait()


def test_a_node_that_does_not_see_the_output_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "runs"
    output.mkdir()
    (tmp_path / "sweep.yaml").write_text(SWEEP.format(output=output))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        with second_node(cluster.address, output):
            _wait_for_two(cluster.address)
            for command, said in (("doctor", "problem"), ("run", "gallop-ray: node ")):
                done = _command(command, tmp_path)
                assert done.returncode == 2, done.stdout
                assert said in done.stdout
                assert "does not see output" in done.stdout
                assert "ount the same storage on every node" in done.stdout
        assert list(output.glob(".seen-*")) == []
    finally:
        cluster.shutdown()


def _wait_for_two(address: str) -> None:
    until = time.monotonic() + 200
    ray.init(address, log_to_driver=False)
    try:
        while sum(node["Alive"] for node in ray.nodes()) < 2:
            assert time.monotonic() < until, "the second node does not join"
            time.sleep(0.5)
    finally:
        ray.shutdown()


def _command(name: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "gallop_ray", name, str(folder / "sweep.yaml")]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1200)
