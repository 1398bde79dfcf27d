"""A sweep on KubeRay without Kubernetes: Ray's own autoscaler and its KubeRay provider, as in the pod of a head.

tests/cluster/ has the API server, and plays the operator. What is Ray's is real: the processes of the nodes, the
provider and its requests over TLS, the decisions of the autoscaler.
"""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.api_server import api_server
from tests.cluster.kuberay import Kubernetes
from tests.cluster.pods import HEAD, HEAD_GROUP, environment
from tests.cluster.raycluster import NAME, NAMESPACE, raycluster
from tests.faults import books
from tests.faults.growing import Sweep, until
from tests.ray_head import RAY, ray_head
from tests.sweep import command

pytestmark = pytest.mark.faults


@dataclass(frozen=True)
class Pod:
    """The head's: the cluster around it, the environment of its containers, and what its autoscaler logs."""

    kubernetes: Kubernetes
    env: dict[str, str]
    log: Path


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    """Head, autoscaler, API server and operator; no worker yet."""
    kubernetes, port = Kubernetes(_small_raycluster(), tmp_path), _free_port()
    with api_server(tmp_path, kubernetes.answer) as server:
        # As the operator starts it: the autoscaler is a container of its own.
        options = ("--no-monitor", "--num-cpus=0", f"--port={port}", "--node-ip-address=127.0.0.1")
        env = {**server, **environment(HEAD, HEAD_GROUP), "RAY_enable_autoscaler_v2": "1"}
        with ray_head(tmp_path, *options, **env) as head:
            address, log = f"127.0.0.1:{port}", tmp_path / "autoscaler.log"
            with _autoscaler(log, address, head.env), kubernetes.operator(address, head.env):
                until(lambda: "Using Autoscaling Config" in log.read_text())  # by then the head answers, too
                yield Pod(kubernetes, {**head.env, "RAY_ADDRESS": address}, log)


def _small_raycluster() -> dict[str, Any]:
    """That of rayjob.yaml, with nodes of one CPU, of which two fit a small machine; idle nodes go sooner."""
    cluster = raycluster()
    cluster["spec"]["autoscalerOptions"]["idleTimeoutSeconds"] = 10
    (group,) = (each for each in cluster["spec"]["workerGroupSpecs"] if each["groupName"] == "cpu")
    group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "1"
    return cluster


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _autoscaler(log: Path, address: str, env: dict[str, str]) -> Iterator[None]:
    """The container `autoscaler` of the head's pod."""
    which = ["--cluster-name", NAME, "--cluster-namespace", NAMESPACE, "--gcs-address", address]
    more = {"RAY_HEAD_POD_NAME": HEAD, "KUBERAY_CRD_VER": "v1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    more["PATH"] = f"{Path(RAY).parent}:{os.environ['PATH']}"  # it calls `ray health-check`
    with log.open("w") as file:
        process = subprocess.Popen([RAY, "kuberay-autoscaler", *which], env={**env, **more}, stdout=file, stderr=file)
    try:
        yield
        assert process.poll() is None, "the autoscaler has ended"
    finally:
        process.kill()
        process.wait()


def test_workers_come_one_vanishes_and_all_go(pod: Pod, tmp_path: Path) -> None:
    kubernetes, sweep = pod.kubernetes, Sweep(tmp_path, slots=2)
    with sweep.at_work(pod.env) as process:
        assert [worker.group for worker in kubernetes.workers] == ["cpu", "cpu"], "no GPUs for a sweep without"
        kept = books.kept_steps(sweep.folder)
        kubernetes.take_away()
        sweep.ends(process, kept)
    assert set(kubernetes.made) == {"cpu"}
    # The operator replaces a pod that is gone, as one whose Ray does not start in its 30 s on a busy machine.
    assert kubernetes.made["cpu"] >= 3
    until(lambda: not kubernetes.workers)
    assert kubernetes.replicas[-1] == 0
    assert max(kubernetes.replicas) == 2


def test_doctor_counts_the_slots_of_what_the_autoscaler_says_it_may_add(pod: Pod, tmp_path: Path) -> None:
    """Of the same RayCluster, read by two processes: a slot of one CPU for each CPU of nodes to come."""
    process = command.start("doctor", Sweep(tmp_path).file, env=pod.env)
    output, _ = process.communicate(timeout=600)
    counted = re.search(r"that fit: 0 now, (\d+) with nodes that its autoscaler may add", output)
    assert counted, output
    said = re.compile(r"Using Autoscaling Config: *\n(.+?)\n\d{4}-", re.DOTALL)
    (logged,) = until(lambda: said.findall(pod.log.read_text()))
    config = yaml.safe_load(logged)
    nodes = [each for name, each in config["available_node_types"].items() if name != config["head_node_type"]]
    assert int(counted[1]) == sum(each["max_workers"] * each["resources"]["CPU"] for each in nodes) == 4 * 1 + 10 * 8


def test_without_the_raycluster_a_sweep_is_refused(pod: Pod, tmp_path: Path) -> None:
    """With no node there, only the RayCluster says that there will be some."""
    elsewhere = {**pod.env, "RAY_CLUSTER_NAME": "another"}
    process = command.start("run", Sweep(tmp_path, slots=2).file, env=elsewhere)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 2, output
    assert "the cluster has 0 CPUs" in output
    assert pod.kubernetes.made == {}
