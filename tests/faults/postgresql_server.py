"""Debian's PostgreSQL, started for tests, without any other user's data."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PASSWORD = "a-password-for-this-test-only"
# PostgreSQL refuses to run as root.
_USER = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}


def _program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    program = str(found[-1]) if found else shutil.which(name)
    if program is None:
        pytest.fail(f"no {name} found; install Debian's package postgresql")
    return program


@contextmanager
def postgresql(*names: str) -> Iterator[str]:
    """Context manager: the address of a server with these databases, without the name of a database and the password.

    It asks for PASSWORD.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "password").write_text(PASSWORD)
        if _USER:
            for path in (folder, folder / "password"):
                shutil.chown(path, **_USER)
        log = (folder / "log").open("w")
        init = [_program("initdb"), "-D", folder / "data", "-U", "gallop", "-A", "scram-sha-256"]
        subprocess.run([*init, f"--pwfile={folder / 'password'}"], check=True, stdout=log, stderr=log, **_USER)
        serve = [_program("postgres"), "-D", folder / "data", "-p", str(port), "-k", folder]
        server = subprocess.Popen(serve, stdout=log, stderr=log, **_USER)
        try:
            _create(port, *names)
            yield f"postgresql://gallop@127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


def _create(port: int, *names: str) -> None:
    for name in names:
        create = [_program("createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "gallop", name]
        until = time.monotonic() + 30
        while subprocess.run(create, env={**os.environ, "PGPASSWORD": PASSWORD}, check=False).returncode:
            assert time.monotonic() < until, "PostgreSQL does not start"
            time.sleep(0.5)
