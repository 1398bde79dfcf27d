"""moto's S3 server on loopback, and a proxy before it that makes what networks and servers make of requests."""

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "sweeps"
KEYS = {"AWS_ACCESS_KEY_ID": "of-the-tests", "AWS_SECRET_ACCESS_KEY": "planted-secret", "AWS_REGION": "us-east-1"}
_CODES = {"503": "SlowDown", "409": "ConditionalRequestConflict", "400": "RequestTimeout"}
Fault = Callable[[str, str], str | None]


def variables(endpoint: str) -> dict[str, str]:
    """What a process needs in its environment to reach the server."""
    return {**KEYS, "AWS_ENDPOINT_URL": endpoint, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}


@contextmanager
def s3_server() -> Iterator[str]:
    """Context manager: the address of an S3 server with one empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client(endpoint).create_bucket(Bucket=BUCKET)
    try:
        yield endpoint
    finally:
        server.stop()


def client(endpoint: str) -> Any:
    """boto3's client of the server: what is asked of it is no test of our own requests."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name=KEYS["AWS_REGION"],
    )


def objects(endpoint: str, prefix: str = "") -> dict[str, bytes]:
    """All objects below a prefix; without those that go while this looks."""
    s3, found = client(endpoint), {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
        for each in page.get("Contents", ()):
            with suppress(s3.exceptions.NoSuchKey):
                found[each["Key"]] = s3.get_object(Bucket=BUCKET, Key=each["Key"])["Body"].read()
    return found


class Faulty:
    """A proxy. `fault` says what becomes of a request: 503, 409, 400, cut, silent, lost, dropped, or None.

    cut: half of the answer's body. silent: no answer in time. lost: carried out, and the connection closed.
    """

    def __init__(self, endpoint: str) -> None:
        self.behind = urlsplit(endpoint)
        self.fault: Fault = lambda method, path: None
        self.requests: list[tuple[str, str, int]] = []
        """Method, path and bytes of each that was let through."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else the second part of an answer waits for the first one's receipt

            def _any(self) -> None:
                proxy.answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing."""

        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """End the proxy."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Pass a request on, or do what its fault says."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self.fault(request.command, request.path)
        if fault in _CODES:
            code = _CODES[fault]
            self._send(request, int(fault), {}, f"<Error><Code>{code}</Code></Error>".encode())
            return
        if fault == "silent":
            self._over.wait(60)
        if fault in ("dropped", "silent"):
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        status, headers, data = self._pass_on(request, body)
        self.requests.append((request.command, request.path, len(body) + len(data)))
        if fault == "lost":
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(request, status, headers, data, cut=fault == "cut")

    def _pass_on(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        there = HTTPConnection(str(self.behind.hostname), self.behind.port, timeout=30)
        there.request(request.command, request.path, body, dict(request.headers))
        answer = there.getresponse()
        data = answer.read()
        there.close()
        return answer.status, dict(answer.getheaders()), data

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes, cut: bool = False
    ) -> None:
        request.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                request.send_header(name, value)
        length = headers.get("Content-Length", str(len(data))) if request.command == "HEAD" else str(len(data))
        request.send_header("Content-Length", length)
        request.end_headers()
        if cut:
            request.wfile.write(data[: len(data) // 2])
            request.wfile.flush()
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)
        elif request.command != "HEAD":
            request.wfile.write(data)


def now_and_then(seed: int, share: float, kinds: tuple[str, ...] = ("503", "409", "dropped", "lost", "cut")) -> Fault:
    """Faults at random, the same for the same seed and order of requests; 409 to conditional writes alone."""
    draw = random.Random(seed)
    lock = threading.Lock()

    def fault(method: str, path: str) -> str | None:
        with lock:
            kind = draw.choice(kinds) if draw.random() < share else None
        return "503" if kind == "409" and method != "PUT" else kind

    return fault
