"""A sweep on a cluster whose nodes come when they are asked for, and vanish without a word."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gallop_ray.training.presets import cache_folder
from tests.faults import books
from tests.faults.growing import Sweep
from tests.ray_head import Head, ray_head

pytestmark = pytest.mark.faults

_PORT = 6379  # where Ray's own fake nodes look for their head
_HEAD = "f" * 51 + "00000"
_CLUSTER: dict[str, Any] = {
    "cluster_name": "fake",
    "max_workers": 2,
    "idle_timeout_minutes": 0.1,
    "provider": {
        "type": "fake_multinode",
        "head_node_id": _HEAD,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "foreground_node_launch": True,
        "worker_liveness_check": False,
        "use_node_id_as_ip": True,  # all have one address here, by which the autoscaler would take them for one node
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    "auth": {},
    "docker": {},
    "cluster_synced_files": [],
    "file_mounts": {},
    "file_mounts_sync_continuously": False,
    **{f"{part}_commands": [] for part in ("setup", "initialization", "head_setup", "worker_setup")},
    **{f"{part}_start_ray_commands": [] for part in ("head", "worker")},
    **{f"rsync_{part}": [] for part in ("exclude", "filter")},
}


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """A head without CPUs of its own, and an autoscaler that may add two nodes of one CPU each."""
    config = tmp_path / "ray_bootstrap_config.yaml"  # as on a head that `ray up` has made
    config.write_text(json.dumps(_CLUSTER))
    arguments = (f"--port={_PORT}", "--num-cpus=0", f"--autoscaling-config={config}")
    env = {
        "HOME": str(tmp_path),
        "GALLOP_RAY_CACHE": str(cache_folder()),
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
    }
    with ray_head(tmp_path, *arguments, **env) as head:
        yield head


def raylets(head: Head) -> list[psutil.Process]:
    """Those of the nodes that the autoscaler has added."""
    found = [each for each in head.process.children(recursive=True) if each.name() == "raylet"]
    return [each for each in found if any("CPU,1" in part for part in each.cmdline())]


def test_nodes_come_and_one_vanishes(head: Head, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    with sweep.at_work({**head.env, "RAY_ADDRESS": f"127.0.0.1:{_PORT}"}) as process:
        victims = raylets(head)
        assert len(victims) == 2
        kept = books.kept_steps(sweep.folder)
        victims[0].send_signal(signal.SIGKILL)
        # Ray's fake nodes are not replaced once they are dead, so that one slot runs what is left.
        sweep.ends(process, kept)
