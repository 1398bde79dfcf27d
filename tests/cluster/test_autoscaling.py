"""What KubeRay's autoscaler derives from our RayCluster is what `doctor` counts as slots."""

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from gallop_ray.slots.coming import workers_of
from gallop_ray.spec.machine import ResourcesSpec
from tests.cluster.files import CLUSTER, documents


def _raycluster() -> dict[str, Any]:
    (job,) = documents(CLUSTER / "kuberay/rayjob.yaml")
    spec = job["spec"]["rayClusterSpec"]
    return {"metadata": {"name": "gallop-ray-abcde", "namespace": "sweeps"}, "spec": spec}


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
    derived = _derive_autoscaling_config_from_ray_cr(_raycluster())
    assert workers_of(derived, ResourcesSpec.model_validate(resources)) == workers


@contextmanager
def _api_server(folder: Path, answers: dict[str, Any]) -> Iterator[dict[str, str]]:
    """An API server over TLS that knows its clients by their certificate; the environment of a pod that asks it."""
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    subprocess.run([*make, "-keyout", key, "-out", certificate, *subject], check=True, capture_output=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path)
            body = json.dumps(found or {"message": "forbidden"}).encode()
            self.send_response(200 if found else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield {
            "RAY_CLUSTER_NAME": "gallop-ray-abcde",
            "RAY_CLUSTER_NAMESPACE": "sweeps",
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT_HTTPS": str(server.server_port),
            "RAY_KUBERAY_CLIENT_CERT_PATH": certificate,
            "RAY_KUBERAY_CLIENT_KEY_PATH": key,
            "RAY_KUBERAY_CA_CERT_PATH": certificate,
        }
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


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
    path = "/apis/ray.io/v1/namespaces/sweeps/rayclusters/gallop-ray-abcde"
    with _api_server(tmp_path, {path: _raycluster()}) as pod:
        env = {**os.environ, "HOME": str(tmp_path), "NO_PROXY": "127.0.0.1", **pod}
        done = subprocess.run([sys.executable, "-c", _ASK], env=env, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (0, "10\n0\n"), done.stderr
    assert "what KubeRay's autoscaler may add is unknown: 403" in done.stderr
