"""What KubeRay's autoscaler derives from our RayCluster is what `doctor` counts as slots."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from gallop_ray.slots.coming import workers_of
from gallop_ray.spec.machine import ResourcesSpec
from tests.cluster.api_server import api_server
from tests.cluster.pods import HEAD, HEAD_GROUP, environment
from tests.cluster.raycluster import PATH, raycluster


@pytest.mark.parametrize(
    ("resources", "workers"),
    [
        ({"gpus_per_worker": 1, "cpus_per_worker": 8}, 8 + 2),
        ({"gpus_per_worker": 1, "cpus_per_worker": 16}, 0),  # no node has as many CPUs
        ({"gpus_per_worker": 0.5, "cpus_per_worker": 4}, 2 * (8 + 2)),
        ({"cpus_per_worker": 4}, 4 + 2 * (8 + 2)),
        ({"cpus_per_worker": 1}, 4 * 4 + 8 * (8 + 2)),  # none on the head
    ],
)
def test_workers_are_counted_on_the_nodes_of_each_group(resources: dict[str, float], workers: int) -> None:
    derived = _derive_autoscaling_config_from_ray_cr(raycluster())
    assert workers_of(derived, ResourcesSpec.model_validate(resources)) == workers


_ASK = """
import os

from gallop_ray.slots import coming
from gallop_ray.spec.machine import ResourcesSpec

coming.autoscaler_limit = lambda: None  # no Ray runs here that could tell
print(coming.workers_to_come(ResourcesSpec(gpus_per_worker=1)))
os.environ["RAY_CLUSTER_NAME"] = "another"
coming._kuberay.cache_clear()
print(coming.workers_to_come(ResourcesSpec(gpus_per_worker=1)))
"""


@pytest.mark.slow
def test_in_a_pod_the_raycluster_is_asked_for(tmp_path: Path) -> None:
    """One that it may read, and one that it may not: then nothing is known of nodes to come, and a warning says so."""

    def answer(_: str, path: str, __: Any) -> tuple[int, Any]:
        return (200, raycluster()) if path == PATH else (403, {"message": "forbidden"})

    with api_server(tmp_path, answer) as server:
        env = {**os.environ, "HOME": str(tmp_path), **server, **environment(HEAD, HEAD_GROUP)}
        done = subprocess.run([sys.executable, "-c", _ASK], env=env, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (0, "10\n0\n"), done.stderr
    assert "what KubeRay's autoscaler may add is unknown: 403" in done.stderr
