"""Pods of a RayCluster, as far as Ray looks at them."""

from typing import Any

from tests.cluster.raycluster import NAME, NAMESPACE

HEAD, HEAD_GROUP = f"{NAME}-head", "headgroup"
RUNNING: dict[str, Any] = {"phase": "Running", "podIP": "127.0.0.1", "containerStatuses": [{"state": {"running": {}}}]}


def environment(pod: str, group: str) -> dict[str, str]:
    """What KubeRay's operator sets in a pod of Ray. By the first two, the autoscaler knows which pod a node is."""
    return {
        "RAY_CLOUD_INSTANCE_ID": pod,
        "RAY_NODE_TYPE_NAME": group,
        "RAY_CLUSTER_NAME": NAME,
        "RAY_CLUSTER_NAMESPACE": NAMESPACE,
        "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
    }


def description(name: str, group: str, status: dict[str, Any], version: int) -> dict[str, Any]:
    """A pod as the API server shows it."""
    kind = "head" if group == HEAD_GROUP else "worker"
    labels = {"ray.io/cluster": NAME, "ray.io/node-type": kind, "ray.io/group": group}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"containers": [{"name": f"ray-{kind}"}]}, "status": status}
