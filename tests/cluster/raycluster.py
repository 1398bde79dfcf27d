"""The RayCluster that KubeRay makes of rayjob.yaml, and what its API server does with patches of it."""

import copy
from typing import Any

from tests.cluster.files import CLUSTER, documents, mistakes

NAME, NAMESPACE = "gallop-ray-abcde", "sweeps"
PATH = f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayclusters/{NAME}"


def raycluster() -> dict[str, Any]:
    """As it is read, with the fields that the schema's defaults and the operator fill in."""
    (job,) = documents(CLUSTER / "kuberay/rayjob.yaml")
    spec = job["spec"]["rayClusterSpec"]
    for group in spec["workerGroupSpecs"]:
        group.setdefault("replicas", 0)
        group.setdefault("scaleStrategy", {})
    return {"metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": spec}


def patched(cluster: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    """The cluster after a JSON patch. Raises ValueError where a server would refuse it."""
    changed = copy.deepcopy(cluster)
    for operation in operations:
        if operation["op"] != "replace":
            raise ValueError(f"unexpected: {operation}")
        *way, last = operation["path"].strip("/").split("/")
        place: Any = changed
        for key in way:
            place = place[int(key)] if isinstance(place, list) else place[key]
        if last not in place:
            raise ValueError(f"nothing to replace: {operation}")
        place[last] = operation["value"]
    _check(changed["spec"])
    return changed


def _check(spec: dict[str, Any]) -> None:
    (job,) = documents(CLUSTER / "kuberay/rayjob.yaml")
    job["spec"]["rayClusterSpec"] = spec
    if found := mistakes(job):
        raise ValueError(str(found))
