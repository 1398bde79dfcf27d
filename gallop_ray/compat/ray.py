"""Ray: placement groups and actors by its head's tables, its processes on this machine, its address file, KubeRay."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_ray_address_file
from ray._private import worker as ray_worker
from ray._private.state import state as ray_state
from ray._raylet import GcsClient, PlacementGroupID  # type: ignore[attr-defined]
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group

from gallop_ray.compat.probe import require

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")  # Kubernetes writes it in every pod
_messages: Any = gcs_pb2  # made at run time, unknown to type checkers


def probe() -> None:
    """Raises Incompatible."""
    require(
        "ray",
        {
            "_private.state.get_actor_info": lambda: ray_state.get_actor_info,
            "_private.state.get_max_resources_from_cluster_config": (
                lambda: ray_state.get_max_resources_from_cluster_config
            ),
            "_private.state._connect_and_get_accessor": lambda: ray_state._connect_and_get_accessor,
            "_private.worker._global_node": lambda: ray_worker._global_node or True,
            "core.generated.gcs_pb2.PlacementGroupTableData.REMOVED": (
                lambda: _messages.PlacementGroupTableData.REMOVED is not None
            ),
            "autoscaler._private.kuberay.autoscaling_config._derive_autoscaling_config_from_ray_cr": (
                lambda: _kuberay()._derive_autoscaling_config_from_ray_cr
            ),
            "autoscaler._private.kuberay.node_provider.KubernetesHttpApiClient": (
                lambda: _kuberay().node_provider.KubernetesHttpApiClient
            ),
            "core.generated.gcs_pb2.ActorTableData.DEAD": lambda: _messages.ActorTableData.DEAD is not None,
        },
    )


def remove_orphaned_groups() -> None:
    """Remove the placement groups of this job whose creators are dead.

    Ray frees them only when the job ends, and until then their resources are lost. Its own cleaner does not work while
    the dashboard is off.
    """
    job = ray.get_runtime_context().get_job_id()
    # Not ray.util.placement_group_table(), which leaves out who created a group.
    for data in ray_state._connect_and_get_accessor().get_placement_group_table():
        group = _messages.PlacementGroupTableData.FromString(data)
        removed = group.state == _messages.PlacementGroupTableData.REMOVED
        if not removed and group.creator_job_id.hex() == job and is_dead(group.creator_actor_id.hex()):
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def is_dead(actor: str) -> bool:
    """Whether the actor with this id is dead; the nil id stands for the driver, which is alive."""
    # Not ray.util.state, which asks the dashboard, and that is off.
    actor_id = ray.ActorID.from_hex(actor)
    data = None if actor_id.is_nil() else ray_state.get_actor_info(actor_id)
    return data is not None and _messages.ActorTableData.FromString(data).state == _messages.ActorTableData.DEAD


def autoscaler_limit() -> Mapping[str, float] | None:
    """The resources of all nodes that the cluster may have; None where no autoscaler has reported them."""
    limit: Mapping[str, float] | None = ray_state.get_max_resources_from_cluster_config()
    return limit


def kuberay_config() -> Mapping[str, Any] | None:
    """What KubeRay's autoscaler may do, in the form of `ray up`'s file; None outside of a pod of KubeRay.

    Read from the RayCluster as Ray's own autoscaler does. KubeRay lets the head's service account read it where
    enableInTreeAutoscaling is set.

    Raises OSError (requests' errors are such), ValueError and LookupError where it cannot be read or understood.
    """
    name = os.environ.get("RAY_CLUSTER_NAME")  # KubeRay gives it to every pod
    namespace = os.environ.get("RAY_CLUSTER_NAMESPACE") or _text(_NAMESPACE)
    if not name or not namespace:
        return None
    kuberay = _kuberay()
    found = kuberay.node_provider.KubernetesHttpApiClient(namespace).get(f"rayclusters/{name}")
    config: Mapping[str, Any] = kuberay._derive_autoscaling_config_from_ray_cr(found)
    return config


def _kuberay() -> Any:
    os.environ.setdefault("KUBERAY_REQUEST_TIMEOUT_S", "5")  # read on import; 60 s, in which the caller would hang
    from ray.autoscaler._private.kuberay import autoscaling_config

    return autoscaling_config


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def ended_process(kinds: Mapping[str, str]) -> tuple[str, int] | None:
    """Which of the Ray processes started by this one has ended, and its exit code; None while all run.

    kinds: from Ray's name of a kind of process to the name to return.
    """
    node: Any = ray_worker._global_node
    for kind, name in kinds.items():
        for started in node.all_processes.get(kind, []) if node is not None else []:
            code = started.process.poll()
            if code is not None:
                return name, code
    return None


def address_note() -> Path:
    """The file in which `ray start` stores the address of the cluster that it started or joined on this machine."""
    return Path(get_ray_address_file(None))


def put_package(client: Any, place: str, content: bytes) -> None:
    """Store bytes in the head's table through a job submission client. place: gcs://NAME.zip. Raises RuntimeError."""
    answer = client._do_request("PUT", f"/api/packages/gcs/{place.removeprefix('gcs://')}", data=content)
    if answer.status_code != 200:
        client._raise_error(answer)


def take_package(head: str, place: str) -> bytes | None:
    """Take such bytes out of the table of the head at HOST:PORT; None where there are none."""
    table: Any = GcsClient(address=head)
    content: bytes | None = table.internal_kv_get(place.encode(), None)
    if content is not None:
        table.internal_kv_del(place.encode(), False, None)
    return content


def greet_head(place: str) -> None:
    """Raises what Ray's client raises where no head of this version listens at HOST:PORT; may hang."""
    GcsClient(address=place)
