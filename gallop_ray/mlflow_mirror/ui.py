"""Opens MLflow's UI for a tracking store in the browser."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from pathlib import Path
from urllib.parse import quote

from gallop_ray.disk.bucket.address import is_bucket
from gallop_ray.mlflow_mirror.sqlite import address_of, file_of
from gallop_ray.mlflow_mirror.store import VIEW, VIEW_TAG, default_uri, tracking_uri
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.stored import open_sweep
from gallop_ray.spec.machine import TrackingSpec
from gallop_ray.spec.secrets import HIDDEN, hidden

_HOST = "127.0.0.1"
_START_SECONDS = 120.0
_STOP_SECONDS = 10.0
_ANSWER_SECONDS = 20.0


def stored_at(directory: str) -> tuple[str, str]:
    """The tracking uri and experiment of a sweep by its folder, or the default ones for a folder of sweeps."""
    if is_bucket(directory):
        raise ValueError(f"{directory}: MLflow's default store lies on the machine that ran the sweep; give --uri")
    if not SweepFolder(Path(directory).expanduser()).exists():
        return default_uri(directory), TrackingSpec().experiment
    sweep = open_sweep(directory).sweep
    return tracking_uri(sweep), sweep.tracking.experiment


def open_ui(uri: str, port: int = 5000, open_browser: bool = True, experiment: str = "gallop_ray") -> int:
    """Show a tracking store in MLflow's UI until Ctrl-C; returns an exit status.

    A server has its own UI: only its address is shown, and nothing is started.

    Args:
        uri: an MLflow tracking uri.
        port: where to serve the UI on this machine.
        open_browser: open the page as well as print its address.
        experiment: the experiment whose runs are shown; all experiments if it does not exist.

    Raises:
        ValueError: the database does not exist; the port is in use, or is none.
    """
    if uri.startswith(("http:", "https:")):
        _show(_runs_of(experiment, uri), open_browser)
        return 0
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} does not exist: choose one from 1 to 65535")
    if (path := file_of(uri)) is not None and not path.exists():
        raise ValueError(
            f"{path} is not there: no sweep has logged to it; give --output, the folder of sweeps, or --uri"
        )
    if _answers(port):
        raise ValueError(f"port {port} is in use on this machine: choose another")
    if path is not None:
        uri = uri if path.is_absolute() else address_of(path.absolute())  # the server starts in another folder
    # MLflow creates a folder for artifacts where it is started, although the experiments name their own.
    with tempfile.TemporaryDirectory() as start_folder:
        log = Path(start_folder) / "log"
        # SIGTERM must act like Ctrl-C: the server has its own session and would survive this process.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        server = _start(uri, port, log)
        try:
            _wait_until_up(server, port, log)
            _show(_runs_of(experiment, f"http://{_HOST}:{port}"), open_browser)
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            _end(server)


def _start(uri: str, port: int, log: Path) -> "subprocess.Popen[bytes]":
    store = ["--backend-store-uri", uri, "--host", _HOST, "--port", str(port), "--workers", "1"]
    # Without MLflow's job runners, a dozen processes that the UI does not need.
    lean = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment = {**os.environ, **lean, "GIT_PYTHON_REFRESH": "quiet"}
    # In its own session: Ctrl-C reaches only this process, which then ends the server with all its workers.
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "mlflow", "ui", *store],
            cwd=log.parent,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((_HOST, port)) == 0


def _wait_until_up(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(port):
        if server.poll() is not None or time.monotonic() > deadline:
            raise ValueError(f"MLflow's page did not start. It says:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)


def _runs_of(experiment: str, address: str) -> str:
    """The page of the experiment's runs; the server's home page if it does not know the experiment.

    Without a password, for which the browser asks: command lines can be read by everybody on the machine.
    """
    address = hidden(address).replace(f"{HIDDEN}@", "")
    question = f"{address.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(experiment)}"
    try:
        with urllib.request.urlopen(question, timeout=_ANSWER_SECONDS) as answer:
            found = json.load(answer)["experiment"]
            number, tags = found["experiment_id"], {each["key"] for each in found.get("tags", [])}
    except (OSError, ValueError, KeyError):
        return address
    view = f"?viewStateShareKey={VIEW}" if f"{VIEW_TAG}{VIEW}" in tags else ""
    return f"{address.rstrip('/')}/#/experiments/{number}/runs{view}"


def _show(address: str, open_browser: bool) -> None:
    print(f"MLflow: {address}", flush=True)
    if open_browser:
        webbrowser.open(address)


def _end(server: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
            server.wait(_STOP_SECONDS)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
