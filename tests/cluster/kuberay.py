"""What Ray's KubeRay provider sees of Kubernetes: a RayCluster that it patches, and pods."""

import threading
import urllib.parse
from typing import Any

from tests.cluster.pods import HEAD, HEAD_GROUP, RUNNING, description
from tests.cluster.raycluster import NAME, NAMESPACE, PATH, patched

_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


class Kubernetes:
    """One RayCluster with its head's pod, and those that a test adds."""

    def __init__(self, cluster: dict[str, Any]) -> None:
        self.cluster = cluster
        self.pods = [description(HEAD, HEAD_GROUP, RUNNING, 1)]
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """The few requests that Ray's provider makes."""
        url = urllib.parse.urlsplit(path)
        with self._lock:
            if url.path == PATH:
                return self._patch(body) if method == "PATCH" else (200, self.cluster)
            if url.path == _PODS and urllib.parse.parse_qs(url.query)["labelSelector"] == [f"ray.io/cluster={NAME}"]:
                return 200, {"metadata": {"resourceVersion": "1"}, "items": self.pods}
        return 404, {"message": f"not found: {method} {path}"}

    def _patch(self, operations: list[dict[str, Any]]) -> tuple[int, Any]:
        try:
            self.cluster = patched(self.cluster, operations)
        except ValueError as error:
            return 422, {"message": str(error)}
        return 200, self.cluster
