"""MLflow's SQLite file is whole or not there, and a broken one makes way for another."""

import multiprocessing
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from gallop_ray.mlflow_mirror.sqlite import address_of, file_of, is_broken, make_whole, set_aside

SPAWN = multiprocessing.get_context("spawn")


def works(path: Path) -> bool:
    from mlflow import MlflowClient

    return MlflowClient(address_of(path)).get_experiment("0").name == "Default"


@pytest.mark.parametrize("name", ["plain", "w ird#[x]%20ü?q&=@"])
def test_an_address_leads_to_its_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "mlflow.db"
    assert file_of(address_of(path)) == path


@pytest.mark.parametrize("uri", ["http://host:5000", "sqlite://", "sqlite:///:memory:", "postgresql:///db", "./mlruns"])
def test_other_stores_have_no_file(uri: str) -> None:
    assert file_of(uri) is None


def test_two_that_begin_at_once_and_one_killed_while_it_makes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "100%25 w?rd" / "mlflow.db"
    killed = SPAWN.Process(target=make_whole, args=(path,))
    killed.start()
    deadline = time.monotonic() + 240
    while not list(path.parent.glob(".mlflow.db.draft-*")):
        assert killed.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert not path.exists(), "what is made by half does not stand where it is looked for"
    both = [SPAWN.Process(target=make_whole, args=(path,)) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(400)
    assert [each.exitcode for each in both] == [0, 0]
    assert [each.name for each in tmp_path.iterdir()] == [path.parent.name], "MLflow's stray folder is gone"
    assert works(path)
    assert {each.name for each in path.parent.iterdir()} <= {"mlflow.db", ".mlflow.db.lock"}


def test_a_file_with_tables_made_by_half_is_set_aside_and_a_whole_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE _alembic_tmp_tags (key VARCHAR(250))")
    connection.execute("CREATE TABLE spans (key VARCHAR(250))")
    connection.close()
    aside = set_aside(path)
    assert aside is not None
    assert aside.exists()
    assert not path.exists()
    make_whole(path)
    assert set_aside(path) is None
    assert works(path)


def test_what_passes_is_not_taken_for_broken() -> None:
    from sqlalchemy.exc import OperationalError

    for words in ("database is locked", "attempt to write a readonly database", "disk I/O error"):
        assert not is_broken(OperationalError("SELECT 1", {}, sqlite3.OperationalError(words)))
    assert is_broken(OperationalError("SELECT 1", {}, sqlite3.OperationalError("duplicate column name: step")))
    assert not is_broken(ValueError("no such table"))
