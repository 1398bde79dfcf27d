"""Pods of a RayCluster as processes of this machine: each is a `ray start` with what KubeRay's operator gives it."""

import math
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray.autoscaler._private.kuberay.utils import parse_quantity

from tests.cluster.raycluster import NAME, NAMESPACE
from tests.ray_head import RAY

HEAD, HEAD_GROUP = f"{NAME}-head", "headgroup"
_GRACE = 30.0  # seconds; Kubernetes' own default


def environment(pod: str, group: str) -> dict[str, str]:
    """What the operator sets in a pod of Ray. By the first two, the autoscaler knows which pod a node is."""
    return {
        "RAY_CLOUD_INSTANCE_ID": pod,
        "RAY_NODE_TYPE_NAME": group,
        "RAY_CLUSTER_NAME": NAME,
        "RAY_CLUSTER_NAMESPACE": NAMESPACE,
        "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
    }


def description(name: str, group: str, status: dict[str, Any], version: int, leaving: bool = False) -> dict[str, Any]:
    """A pod as the API server shows it, as far as Ray looks."""
    kind = "head" if group == HEAD_GROUP else "worker"
    labels = {"ray.io/cluster": NAME, "ray.io/node-type": kind, "ray.io/group": group}
    metadata: dict[str, Any] = {"name": name, "namespace": NAMESPACE, "labels": labels, "resourceVersion": str(version)}
    if leaving:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    # Ray reads the resources of the first container.
    return {"metadata": metadata, "spec": {"containers": [{"name": f"ray-{kind}"}]}, "status": status}


RUNNING: dict[str, Any] = {"phase": "Running", "podIP": "127.0.0.1", "containerStatuses": [{"state": {"running": {}}}]}
PENDING: dict[str, Any] = {"phase": "Pending"}


def start_options(group: dict[str, Any]) -> list[str]:
    """The resources that the operator makes of a group's limits and rayStartParams."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    given = {
        "num-cpus": math.ceil(parse_quantity(limits["cpu"])),
        "memory": int(parse_quantity(limits["memory"])),
        "num-gpus": math.ceil(parse_quantity(limits.get("nvidia.com/gpu", 0))),
        **group["rayStartParams"],
    }
    return [f"--{name}={value}" for name, value in given.items() if value]


@dataclass
class Worker:
    """A worker's pod: pending, then a process, then leaving."""

    name: str
    group: str
    process: psutil.Popen | None = None
    ends_by: float | None = None
    """When its time to end is over, by the monotonic clock; None while it may stay."""

    def describe(self, version: int) -> dict[str, Any]:
        status = RUNNING if self.process else PENDING
        return description(self.name, self.group, status, version, self.ends_by is not None)

    def start(self, head: str, options: list[str], env: dict[str, str], log: Path) -> None:
        """Join the head at HOST:PORT."""
        command = [RAY, "start", f"--address={head}", "--node-ip-address=127.0.0.1", *options, "--block"]
        with log.open("w") as file:
            here = {**env, **environment(self.name, self.group)}
            self.process = psutil.Popen(command, env=here, stdout=file, stderr=subprocess.STDOUT)

    def leave(self) -> None:
        """Be deleted as by `kubectl delete`: asked to end, and killed if it takes too long."""
        if self.ends_by is None:
            self.ends_by = time.monotonic() + _GRACE
            if self.process:
                self.process.terminate()

    def has_gone(self) -> bool:
        """Whether nothing of it runs any more. Kills where the time is over, or where the container has ended."""
        if self.process is None:
            return self.ends_by is not None
        over = self.ends_by is not None and time.monotonic() > self.ends_by
        if over or self.process.poll() is not None:
            self.kill()
            return True
        return False

    def kill(self) -> None:
        """At once and with all that runs in it, as if its machine had lost its power."""
        if self.process is None:
            return
        family = self.process.children(recursive=True) if self.process.poll() is None else []
        for each in [*family, self.process]:
            with suppress(psutil.NoSuchProcess):  # some end with what has just been killed
                each.kill()
        self.process.wait()
