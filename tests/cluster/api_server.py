"""An API server like Kubernetes', over TLS, which knows its clients by their certificate."""

import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Answer = Callable[[str, str, Any], tuple[int, Any]]
"""From method, path and body to status and body."""


@contextmanager
def api_server(folder: Path, answer: Answer) -> Iterator[dict[str, str]]:
    """Serves on loopback; the environment in which Ray's code finds it. The certificate lies in the folder."""
    key, certificate = _certificate(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(answer))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT_HTTPS": str(server.server_port),
            # Instead of a service account's files, whose place /var/run/secrets is the same for all of a machine.
            "RAY_KUBERAY_CLIENT_CERT_PATH": certificate,
            "RAY_KUBERAY_CLIENT_KEY_PATH": key,
            "RAY_KUBERAY_CA_CERT_PATH": certificate,
            "NO_PROXY": "127.0.0.1",
        }
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _certificate(folder: Path) -> tuple[str, str]:
    """The files of a key and of a certificate, which serves for the server and for its clients."""
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    subprocess.run([*make, "-keyout", key, "-out", certificate, *subject], check=True, capture_output=True)
    return key, certificate


def _handler(answer: Answer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(None)

        def do_PATCH(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, asked: Any) -> None:
            status, found = answer(self.command, self.path, asked)
            body = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    return Handler
