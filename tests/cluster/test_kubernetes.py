"""The manifests of cluster/: valid by strict schemas, and of one mind with each other."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.files import CLUSTER, KUBERNETES, documents, mistakes

JOBS = [CLUSTER / "kuberay/rayjob.yaml", CLUSTER / "kuberay/rayjob-kueue.yaml"]


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_a_manifest_is_valid(path: Path) -> None:
    for document in documents(path):
        assert mistakes(document) == []


def _pod(job: dict[str, Any], group: int = 0) -> dict[str, Any]:
    pod: dict[str, Any] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][group]["template"]["spec"]
    return pod


def _plant(job: dict[str, Any], mistake: str) -> None:
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    plants: dict[str, Callable[[], Any]] = {
        "key of the job": lambda: spec.update(backofLimit=3),
        "key of the cluster": lambda: cluster.update(enableInTreeAutoscalling=True),
        "key of a pod": lambda: _pod(job).update(restartpolicy="Never"),
        "key of a container": lambda: _pod(job)["containers"][0].update(volumeMount=[]),
        "key of a group": lambda: cluster["workerGroupSpecs"][0].update(maxReplica=3),
        "type of a number": lambda: cluster["workerGroupSpecs"][0].update(maxReplicas="8"),
        "another choice": lambda: cluster["autoscalerOptions"].update(version="v3"),
        "missing key": lambda: cluster["workerGroupSpecs"][0].pop("template"),
        "value that is a number": lambda: _pod(job)["containers"][0]["env"].append({"name": "A", "value": 1}),
        "key of the metadata": lambda: job["metadata"].update(label={}),
        "version": lambda: job.update(apiVersion="ray.io/v1alpha1"),
    }
    plants[mistake]()


@pytest.mark.parametrize(
    "mistake",
    [
        "key of the job",
        "key of the cluster",
        "key of a pod",
        "key of a container",
        "key of a group",
        "type of a number",
        "another choice",
        "missing key",
        "value that is a number",
        "key of the metadata",
        "version",
    ],
)
def test_a_planted_mistake_in_a_rayjob_is_found(mistake: str) -> None:
    (job,) = copy.deepcopy(documents(JOBS[0]))
    _plant(job, mistake)
    assert mistakes(job)


@pytest.mark.parametrize("kind", ["PersistentVolumeClaim", "StatefulSet", "Service", "Deployment"])
def test_a_planted_mistake_in_a_builtin_kind_is_found(kind: str) -> None:
    found = next(each for each in documents(CLUSTER / "mlflow/kubernetes.yaml") if each["kind"] == kind)
    assert mistakes({**found, "spec": {**found["spec"], "unknown": 1}})


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_rayjob_keeps_what_its_pods_need(path: Path) -> None:
    """What no schema knows: a mount without its volume, a group without /dev/shm, the head's work, a secret's value."""
    (job,) = documents(path)
    cluster = job["spec"]["rayClusterSpec"]
    head, groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    for group in (head, *groups):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
        assert pod["securityContext"]["runAsNonRoot"]
        secret = [each for each in container["env"] if each["name"].endswith(("_TOKEN", "_PASSWORD", "_USERNAME"))]
        assert secret
        assert all("secretKeyRef" in each["valueFrom"] for each in secret)
        if cluster.get("enableInTreeAutoscaling"):
            assert pod["restartPolicy"] == "Never", "autoscaler v2 replaces nodes itself"
    for group in groups:
        assert "/dev/shm" in {each["mountPath"] for each in group["template"]["spec"]["containers"][0]["volumeMounts"]}
        requests = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert requests["cpu"], "KubeRay's autoscaler needs it to know what a node brings"


def test_spot_nodes_come_first() -> None:
    (job,) = documents(JOBS[0])
    groups = {each["groupName"]: each for each in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    assert groups["gpu-spot"]["priority"] > groups["gpu-on-demand"]["priority"] > groups["cpu"].get("priority", 0)


def test_what_kueue_asks_for() -> None:
    (job,) = documents(JOBS[1])
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert job["spec"]["suspend"] is True
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert "enableInTreeAutoscaling" not in job["spec"]["rayClusterSpec"]
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def test_what_is_referred_to_is_there() -> None:
    claims, services, asked_claims, asked_hosts = set(), set(), set(), set()
    for path in KUBERNETES:
        for document in documents(path):
            name, text = document["metadata"]["name"], str(document)
            claims |= {name} if document["kind"] == "PersistentVolumeClaim" else set()
            services |= {name} if document["kind"] == "Service" else set()
            asked_claims |= set(_values(document, "claimName"))
            asked_hosts |= {host for host in ("mlflow", "postgres") if f"//{host}:" in text or f"@{host}/" in text}
    assert asked_claims == claims
    assert asked_hosts == services


def _values(tree: Any, key: str) -> list[Any]:
    if isinstance(tree, list):
        return [value for each in tree for value in _values(each, key)]
    if not isinstance(tree, dict):
        return []
    here = [tree[key]] if key in tree else []
    return here + [value for each in tree.values() for value in _values(each, key)]
