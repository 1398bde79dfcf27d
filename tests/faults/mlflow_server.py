"""An MLflow server of its own for a sweep."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import psutil


class Server:
    """An MLflow server that can be killed and comes back on the same port.

    store: the database behind it; by default a file in the folder. login: its environment where users have to log in.
    """

    def __init__(self, folder: Path, store: str | None = None, login: Mapping[str, str] | None = None) -> None:
        self._store = store or f"sqlite:///{folder / 'server.db'}"
        self._login = login
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self._port = one.getsockname()[1]
        self._folder = folder
        self._start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def restart(self) -> None:
        """Kill it, and start another one after a while."""
        self.stop()
        time.sleep(2)
        self._start(wait=False)

    def again(self) -> None:
        """Start another one in the place of a killed one; returns once it answers."""
        self._start()

    def stop(self) -> None:
        """Kill it and the processes that it has started, which would go on to answer in its place."""
        family = psutil.Process(self._process.pid).children(recursive=True)
        for each in (self._process, *family):
            each.kill()
        self._process.wait()

    def _start(self, wait: bool = True) -> None:
        options = ["--backend-store-uri", self._store, "--port", str(self._port), "--workers", "1"]
        options += ["--artifacts-destination", str(self._folder / "artifacts")]
        options += ["--app-name", "basic-auth"] if self._login else []
        log = (self._folder / "server.log").open("ab")
        lean = {**os.environ, **(self._login or {}), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # else a dozen more
        program = [sys.executable, "-m", "mlflow", "server", *options]
        self._process = subprocess.Popen(program, stdout=log, stderr=log, env=lean)
        until = time.monotonic() + 90
        while wait:
            try:
                urllib.request.urlopen(self.uri + "/health", timeout=2).close()
                return
            except OSError:
                assert time.monotonic() < until, (self._folder / "server.log").read_text()
                time.sleep(0.5)
