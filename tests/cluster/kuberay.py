"""What Ray's autoscaler sees of Kubernetes and of KubeRay's operator: a RayCluster, and the pods that follow it."""

import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.pods import HEAD, HEAD_GROUP, RUNNING, Worker, description, start_options
from tests.cluster.raycluster import NAME, NAMESPACE, PATH, patched

_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_SECONDS = 0.5  # between two looks of the operator


class Kubernetes:
    """One RayCluster, whose workers are nodes on this machine; the head's pod is there and not started here."""

    def __init__(self, cluster: dict[str, Any], folder: Path) -> None:
        self.cluster = cluster
        self.workers: list[Worker] = []
        self.made: Counter[str] = Counter()
        """How many pods each group has had."""
        self.replicas: list[int] = []
        """What the autoscaler has asked for, whenever that has changed, over all groups."""
        self.others: list[dict[str, Any]] = []
        """Pods that a test shows without a process."""
        self._folder = folder
        self._version = 1
        self._lock = threading.RLock()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """The few requests that Ray's provider makes."""
        url = urllib.parse.urlsplit(path)
        with self._lock:
            if url.path == PATH:
                return self._patch(body) if method == "PATCH" else (200, self.cluster)
            if url.path == _PODS and urllib.parse.parse_qs(url.query)["labelSelector"] == [f"ray.io/cluster={NAME}"]:
                items = [self._head(), *self.others, *(worker.describe(self._version) for worker in self.workers)]
                return 200, {"metadata": {"resourceVersion": str(self._version)}, "items": items}
            if url.path == f"{_PODS}/{HEAD}":
                return 200, self._head()
        return 404, {"message": f"not found: {method} {path}"}

    def _patch(self, operations: list[dict[str, Any]]) -> tuple[int, Any]:
        try:
            self.cluster = patched(self.cluster, operations)
        except ValueError as error:
            return 422, {"message": str(error)}
        wanted = sum(group["replicas"] for group in self.cluster["spec"]["workerGroupSpecs"])
        if wanted != (self.replicas or [0])[-1]:
            self.replicas.append(wanted)
        return 200, self.cluster

    def _head(self) -> dict[str, Any]:
        return description(HEAD, HEAD_GROUP, RUNNING, self._version)

    def take_away(self) -> str:
        """A worker's machine vanishes, and with it the pod; its name."""
        with self._lock:
            victim = self.workers[0]
            victim.kill()
            self.workers.remove(victim)
            self._version += 1
            return victim.name

    @contextmanager
    def operator(self, head: str, env: dict[str, str]) -> Iterator[None]:
        """KubeRay's operator, for which workers join the head at HOST:PORT in this environment."""
        done = threading.Event()

        def work() -> None:
            while not done.wait(_SECONDS):
                with self._lock:
                    self._reconcile(head, env)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            for worker in self.workers:
                worker.kill()

    def _reconcile(self, head: str, env: dict[str, str]) -> None:
        self._version += 1
        for group in self.cluster["spec"]["workerGroupSpecs"]:
            for worker in self._of(group):
                if worker.process is None:  # a pod waits for its machine before its container starts
                    worker.start(head, start_options(group), env, self._folder / f"{worker.name}.log")
                if worker.name in group["scaleStrategy"].get("workersToDelete", []):
                    worker.leave()
            self.workers = [worker for worker in self.workers if not worker.has_gone()]
            self._fill(group)

    def _fill(self, group: dict[str, Any]) -> None:
        """Add what is missing, once all that leave have gone. What is too much stays, for the autoscaler to choose."""
        present = self._of(group)
        if any(worker.ends_by is not None for worker in present):
            return
        wanted = min(max(group["replicas"], group["minReplicas"]), group["maxReplicas"])
        for _ in range(wanted - len(present)):
            name = group["groupName"]
            self.made[name] += 1
            self.workers.append(Worker(f"{NAME}-{name}-worker-{self.made[name]:05}", name))

    def _of(self, group: dict[str, Any]) -> list[Worker]:
        return [worker for worker in self.workers if worker.group == group["groupName"]]
