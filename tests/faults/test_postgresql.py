"""MLflow and the studies on PostgreSQL."""

import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from gallop_ray.records.folders import SweepFolder
from tests.faults import books
from tests.faults.mlflow_server import Server
from tests.faults.postgresql_server import PASSWORD, postgresql
from tests.sweep import command

pytestmark = pytest.mark.postgresql


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgresql("mlflow", "studies") as address:
        yield address


def test_a_killed_sweep_has_exact_books_on_postgresql(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep file names no password: PGPASSWORD has it."""
    server = Server(tmp_path, f"{database.replace('@', f':{PASSWORD}@')}/mlflow")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    studies = f"{database}/studies"
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
        assert PASSWORD not in (folder.path / "spec.json").read_text()
    finally:
        server.stop()
