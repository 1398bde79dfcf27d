"""The studies' database that goes away and comes back, and one that was asked for what it cannot do."""

import sqlite3
import threading
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from gallop_ray.search.storage import database, retry_while_away


def test_work_waits_until_the_database_is_free(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "studies.db"
    # SQLite waits five seconds for whoever holds the file; nobody has to for a test.
    study = optuna.create_study(storage=database(f"sqlite:///{file}?timeout=0.1"))
    other = sqlite3.connect(file, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    threading.Timer(2, other.rollback).start()
    assert retry_while_away(lambda: study.ask().number) == 0
    assert "is away; nothing new begins" in caplog.text


def test_what_no_waiting_mends_is_raised_at_once() -> None:
    connection = sqlalchemy.create_engine("sqlite://").connect()
    with connection, pytest.raises(sqlalchemy.exc.ProgrammingError):
        retry_while_away(lambda: connection.execute(sqlalchemy.text("SELECT :value"), {"value": object()}))
