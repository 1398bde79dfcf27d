"""The MLflow page: it comes up, and it goes away without leftovers."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from gallop_ray.tracking.ui import open_ui


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_page_is_served_until_ctrl_c(tmp_path):
    port = free_port()
    program = f"from gallop_ray.tracking.ui import open_ui; open_ui('sqlite:///{tmp_path}/m.db', {port}, False)"
    # It hears SIGINT also where the tests run in the background of a shell.
    program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {program}"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as ui:
        assert ui.stdout is not None
        address = re.search(r"http://\S+", ui.stdout.readline())
        assert address is not None
        with urllib.request.urlopen(address[0], timeout=30) as page:
            assert b"<html" in page.read().lower()
        ui.send_signal(signal.SIGINT)
        assert ui.wait(timeout=30) == 0
    assert not answers(port)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".m.db.lock", "m.db"]


def test_a_taken_port_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} is in use"):
            open_ui("sqlite:///unused.db", port, open_browser=False)


def test_a_server_has_its_page_already(capsys):
    assert open_ui("http://tracking.example:5000", open_browser=False) == 0
    assert capsys.readouterr().out == "MLflow: http://tracking.example:5000\n"
