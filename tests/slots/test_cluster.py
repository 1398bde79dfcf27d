"""How many slots may come, by what `ray up` leaves on the head; the end of Ray."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray._private.state import state as ray_state

from gallop_ray.slots import cluster
from gallop_ray.spec.machine import ResourcesSpec

_CONFIG = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 64}, "max_workers": 1},
        "small": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 10},
        "large": {"resources": {"CPU": 32, "GPU": 8}, "max_workers": 2},
        "unknown": {"max_workers": 3},
    },
}


@pytest.mark.parametrize(
    ("resources", "slots"),
    [
        ({"gpus_per_worker": 1}, 2 * 8 + 3 * 1),
        ({"gpus_per_worker": 1, "workers_per_slot": 4}, 19 // 4),
        ({"cpus_per_worker": 8}, 2 * 4),
        ({"gpus_per_worker": 1, "slots": 3}, 3),
        ({"gpus_per_worker": 16}, 0),
    ],
)
def test_slots_to_come_are_those_of_the_largest_nodes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resources: dict[str, int], slots: int
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray_state, "get_max_resources_from_cluster_config", lambda: None)
    monkeypatch.setattr(cluster.ray, "nodes", list)
    asked = ResourcesSpec.model_validate(resources)
    assert cluster.possible_slots(asked) == (0, 0), "nothing is known of nodes to come"
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(_CONFIG))
    assert cluster.possible_slots(asked) == (0, slots)


_GARBAGE = """
import ray
from ray._private.worker import global_worker
from gallop_ray.slots.cluster import leave

class Collected:
    # Ray's core, after whose end, as another thread might, this one makes so much that garbage is collected.
    def __getattr__(self, name):
        return getattr(core, name)

    def shutdown_driver(self):
        core.shutdown_driver()
        [[] for _ in range(200_000)]

ray.init(address="local", include_dashboard=False, num_cpus=1, log_to_driver=False)
core, global_worker.core_worker = global_worker.core_worker, Collected()
cycle = [ray.put(1)]
cycle.append(cycle)
del cycle
leave()
print("left")
"""


def test_garbage_that_is_found_while_ray_ends_does_not_end_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", _GARBAGE], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr
