"""MLflow and the studies on PostgreSQL: Debian's, started here, without any other user's data."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from gallop_ray.records.folders import SweepFolder
from tests.faults import books
from tests.faults.mlflow_server import Server
from tests.sweep import command

pytestmark = pytest.mark.postgresql

_PASSWORD = "a-password-for-this-test-only"
# PostgreSQL refuses to run as root.
_USER = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}


def _program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    program = str(found[-1]) if found else shutil.which(name)
    if program is None:
        pytest.fail(f"no {name} found; install Debian's package postgresql")
    return program


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of a PostgreSQL server that asks for a password, without the name of a database."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "password").write_text(_PASSWORD)
        if _USER:
            for path in (folder, folder / "password"):
                shutil.chown(path, **_USER)
        log = (folder / "log").open("w")
        init = [_program("initdb"), "-D", folder / "data", "-U", "gallop", "-A", "scram-sha-256"]
        subprocess.run([*init, f"--pwfile={folder / 'password'}"], check=True, stdout=log, stderr=log, **_USER)
        serve = [_program("postgres"), "-D", folder / "data", "-p", str(port), "-k", folder]
        server = subprocess.Popen(serve, stdout=log, stderr=log, **_USER)
        try:
            _create(port, "mlflow", "studies")
            yield f"postgresql://gallop:{_PASSWORD}@127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


def _create(port: int, *names: str) -> None:
    for name in names:
        create = [_program("createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "gallop", name]
        until = time.monotonic() + 30
        while subprocess.run(create, env={**os.environ, "PGPASSWORD": _PASSWORD}, check=False).returncode:
            assert time.monotonic() < until, "PostgreSQL does not start"
            time.sleep(0.5)


def test_a_killed_sweep_has_exact_books_on_postgresql(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep file names no password: PGPASSWORD has it."""
    server = Server(tmp_path, f"{database}/mlflow")
    monkeypatch.setenv("PGPASSWORD", _PASSWORD)
    studies = f"{database.replace(f':{_PASSWORD}', '')}/studies"
    space = {"training.learning_rate": {"choice": [1e-3, 2e-3, 3e-3]}}
    sweep = command.write_sweep(
        tmp_path,
        methods=[{"type": "gallop"}, {"type": "lora"}],
        search={"space": space, "storage": studies},
        budget={"configurations": 3},
        tracking={"uri": server.uri},
    )
    folder = SweepFolder(tmp_path / "runs" / "tiny")
    try:
        process = command.start("run", sweep)
        until = time.monotonic() + 300
        while not (folder.path.exists() and any(run.result() for run in folder.runs())):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.1)
        process.kill()
        process.communicate()
        done = command.run("run", sweep)
        assert done.returncode == 0, done.stdout
        books.check(folder, server.uri, 6, 12, optuna.storages.RDBStorage(studies))
        assert not (folder.path / "study.journal").exists()
        assert _PASSWORD not in (folder.path / "spec.json").read_text()
    finally:
        server.stop()
