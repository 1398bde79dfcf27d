"""The MLflow page: it comes up, and it goes away without leftovers."""

import http.server
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from mlflow import MlflowClient

from gallop_ray.mlflow_mirror.ui import open_ui


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.long
def test_the_page_of_a_relative_address_is_served_until_ctrl_c(tmp_path):
    port = free_port()
    program = f"from gallop_ray.mlflow_mirror.ui import open_ui; open_ui('sqlite:///m.db', {port}, False)"
    # It hears SIGINT also where the tests run in the background of a shell.
    client = MlflowClient(f"sqlite:///{tmp_path}/m.db")
    number = client.create_experiment("gallop_ray")
    program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {program}"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as ui:
        assert ui.stdout is not None
        address = re.search(r"http://\S+", ui.stdout.readline())
        assert address is not None
        assert address[0].endswith(f"/#/experiments/{number}/runs"), "the file in this folder, and not another"
        with urllib.request.urlopen(address[0], timeout=30) as page:
            assert b"<html" in page.read().lower()
        ui.send_signal(signal.SIGINT)
        assert ui.wait(timeout=30) == 0
    assert not answers(port)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.db"]


def test_a_database_that_is_not_there_is_refused_and_not_made(tmp_path, capsys):
    from gallop_ray.cli import main

    for asked in (["--output", str(tmp_path / "rums")], ["--uri", f"sqlite:///{tmp_path}/typo/mlflow.db"]):
        assert main(["ui", "--no-browser", *asked]) == 2
        assert "mlflow.db is not there: no sweep has logged to it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_refused(tmp_path):
    (tmp_path / "m.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} is in use"):
            open_ui(f"sqlite:///{tmp_path}/m.db", port, open_browser=False)


@pytest.mark.parametrize("port", [0, 99999])
def test_a_port_that_there_is_not(tmp_path: Path, port: int) -> None:
    with pytest.raises(ValueError, match=f"port {port} does not exist"):
        open_ui(f"sqlite:///{tmp_path / 'mlflow.db'}", port, open_browser=False)


def test_a_server_has_its_page_already(capsys):
    assert open_ui("http://tracking.example:5000", open_browser=False) == 0
    assert capsys.readouterr().out == "MLflow: http://tracking.example:5000\n"


@pytest.mark.parametrize("asked", [[], ["--experiment", "other"]])
def test_a_sweeps_folder_opens_the_server_and_the_experiment_that_the_sweep_names(tmp_path, capsys, asked):
    from gallop_ray.cli import main
    from tests.sweep.written import Written, small_sweep

    names = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            names.append(parse_qs(urlsplit(self.path).query)["experiment_name"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"experiment": {"experiment_id": "7"}}')

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        written = Written(small_sweep(tmp_path, tracking={"uri": uri, "experiment": "colors"}))
        assert main(["ui", "--output", str(written.folder.path), "--no-browser", *asked]) == 0
        server.shutdown()
    assert capsys.readouterr().out == f"MLflow: {uri}/#/experiments/7/runs\n"
    assert names == [["other" if asked else "colors"]]
