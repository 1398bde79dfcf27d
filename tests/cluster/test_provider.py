"""Ray's own KubeRay provider against an API server that holds our RayCluster: the patches by which it scales."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.api_server import api_server
from tests.cluster.kuberay import Kubernetes
from tests.cluster.pods import HEAD, HEAD_GROUP, RUNNING, description, environment
from tests.cluster.raycluster import raycluster

_SCALE = """
from ray.autoscaler.v2.instance_manager.cloud_providers.kuberay.cloud_provider import KubeRayProvider

provider = KubeRayProvider("gallop-ray-abcde", {"namespace": "sweeps"}, gcs_client=None)
print({name: found.node_type for name, found in provider.get_non_terminated().items()})
provider.launch({"cpu": 6}, "up")
print([str(error) for error in provider.poll_errors()])
provider.terminate(["one"], "down")
print(provider.poll_errors())
"""


@pytest.mark.slow
def test_the_provider_scales_our_raycluster_by_patches_that_its_schema_allows(tmp_path: Path) -> None:
    """Six more nodes are asked for where four are allowed; then one is to go."""
    kubernetes = Kubernetes(raycluster(), tmp_path)
    kubernetes.others.append(description("one", "cpu", RUNNING, 1))
    with api_server(tmp_path, kubernetes.answer) as server:
        env = {**os.environ, **server, **environment(HEAD, HEAD_GROUP)}
        done = subprocess.run([sys.executable, "-c", _SCALE], env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    pods, capped, errors = done.stdout.splitlines()
    assert pods == str({HEAD: HEAD_GROUP, "one": "cpu"})
    assert "Launch capped by maxReplicas limit." in capped
    assert errors == "[]"
    scaled = {each["groupName"]: (each["replicas"], each["scaleStrategy"]) for each in _groups(kubernetes)}
    assert scaled["cpu"] == (3, {"workersToDelete": ["one"]})
    assert scaled["gpu-spot"] == scaled["gpu-on-demand"] == (0, {})


def _groups(kubernetes: Kubernetes) -> list[dict[str, object]]:
    groups: list[dict[str, object]] = kubernetes.cluster["spec"]["workerGroupSpecs"]
    return groups
