"""MLflow's SQLite file: it appears whole or not at all, and a broken one makes way for another."""

import logging
import os
import re
import time
from pathlib import Path
from urllib.parse import quote, unquote

from filelock import FileLock

_COMPANIONS = ("", "-journal", "-wal", "-shm")
_LOCK_SECONDS = 600.0
# One attempt and short waits: the mirror repeats by itself, and the end of a sweep must not hang on a dead server.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
# What says nothing of the file's content.
_PASSING = ("locked", "busy", "readonly", "unable to open", "disk I/O", "disk is full", "out of memory")


def prepare() -> None:
    """Before MLflow is used: it and alembic tell of every table they make, on loggers set up while it is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    for each in ("mlflow", "alembic"):
        logging.getLogger(each).setLevel(logging.WARNING)


def address_of(path: Path) -> str:
    """The tracking uri of a file, whose path may hold what has a meaning in an address: ? and %."""
    return f"sqlite:///{quote(str(path), safe=_unquoted(str(path)))}"


def file_of(uri: str) -> Path | None:
    """The SQLite file of a tracking uri; None for other stores, and for a database in memory."""
    scheme, slashes, rest = uri.partition(":///")
    path = unquote(rest.partition("?")[0])
    if not slashes or scheme.partition("+")[0] != "sqlite" or not path or path.startswith((":", "file:")):
        return None
    return Path(path)


def make_whole(path: Path) -> None:
    """Make the file where it is not there: MLflow takes seconds and hundreds of steps for its tables.

    They are made in a draft beside it, by one process at a time. A draft that a killed process left is removed.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_SECONDS):
        if path.exists():
            return
        for left in path.parent.glob(f".{path.name}.draft-*"):
            left.unlink(missing_ok=True)
        draft = path.with_name(f".{path.name}.draft-{os.getpid()}")
        _make_tables(draft)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)


def set_aside(path: Path) -> Path | None:
    """Rename a broken file, so that it can be made again; where it is now, None where another process did so."""
    aside = path.with_name(f"{path.stem}.broken-{int(time.time())}{path.suffix}")
    with FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_SECONDS):
        if not path.exists() or not is_broken(_error_of(path)):
            return None
        for companion in _COMPANIONS:
            beside = path.with_name(path.name + companion)
            if beside.exists():
                beside.rename(aside.with_name(aside.name + companion))
    return aside


def is_broken(error: BaseException | None) -> bool:
    """Whether an error of MLflow's is about what the file holds: tables made by half, or no database at all."""
    from sqlalchemy.exc import DBAPIError

    return isinstance(error, DBAPIError) and not any(words in str(error.orig) for words in _PASSING)


def _error_of(path: Path) -> Exception | None:
    try:
        _make_tables(path)
    except Exception as error:
        return error
    return None


def _make_tables(path: Path) -> None:
    """What every client of MLflow does first; here with a connection that is closed again."""
    prepare()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    from gallop_ray.compat.mlflow import close_engine

    path = path.resolve()
    try:
        SqlAlchemyStore(address_of(path), (path.parent / "mlartifacts").as_uri())  # type: ignore[no-untyped-call]
    finally:
        # MLflow keeps an engine for each address, and its connections would stay with the file that is renamed.
        close_engine(address_of(path))
        remove_stray(path)


def remove_stray(path: Path) -> None:
    """Remove the empty folders that MLflow makes by the address as it is written, where that is not the file's path."""
    stray = Path(address_of(path).removeprefix("sqlite:///")).parent
    while not path.parent.is_relative_to(stray):
        try:
            stray.rmdir()
        except OSError:
            return
        stray = stray.parent


def _unquoted(path: str) -> str:
    return "".join(sorted(set(re.sub(r"[?%]", "", path))))
