"""MLflow's SQLite file: created atomically, and replaced when it is broken."""

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
# Errors that say nothing about the file's content: never a reason to set it aside.
_PASSING = ("locked", "busy", "readonly", "unable to open", "disk I/O", "disk is full", "out of memory")


def prepare() -> None:
    """Call before MLflow is imported: it and alembic log every table they create, on loggers set up at import."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    for each in ("mlflow", "alembic"):
        logging.getLogger(each).setLevel(logging.WARNING)


def address_of(path: Path) -> str:
    """The tracking uri of a file; ? and % in its path, which have a meaning in a uri, are quoted."""
    return f"sqlite:///{quote(str(path), safe=_unquoted(str(path)))}"


def file_of(uri: str) -> Path | None:
    """The SQLite file of a tracking uri; None for other stores, and for a database in memory."""
    scheme, slashes, rest = uri.partition(":///")
    path = unquote(rest.partition("?")[0])
    if not slashes or scheme.partition("+")[0] != "sqlite" or not path or path.startswith((":", "file:")):
        return None
    return Path(path)


def make_whole(path: Path) -> None:
    """Create the file if it is missing. MLflow needs seconds and hundreds of statements for its tables.

    They are created in a draft next to it, by one process at a time. Drafts of killed processes are removed.
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
    """Rename a broken file, so that it can be created again. Returns its new path; None if another process did it."""
    aside = path.with_name(f"{path.stem}.broken-{int(time.time())}{path.suffix}")
    with FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_SECONDS):
        # Asked again under the lock: another process may have replaced it meanwhile.
        if not path.exists() or not is_broken(_error_of(path)):
            return None
        # With its journals, which SQLite would replay into the new file of the same name.
        for companion in _COMPANIONS:
            beside = path.with_name(path.name + companion)
            if beside.exists():
                beside.rename(aside.with_name(aside.name + companion))
    return aside


def is_broken(error: BaseException | None) -> bool:
    """Whether an error of MLflow's is about the file's content: incomplete tables, or not a database at all."""
    from sqlalchemy.exc import DBAPIError

    return isinstance(error, DBAPIError) and not any(words in str(error.orig) for words in _PASSING)


def _error_of(path: Path) -> Exception | None:
    try:
        _make_tables(path)
    except Exception as error:
        return error
    return None


def _make_tables(path: Path) -> None:
    """Create the tables, as every MLflow client does first; here with a connection that is closed again."""
    prepare()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    from gallop_ray.compat.mlflow import close_engine

    path = path.resolve()
    try:
        SqlAlchemyStore(address_of(path), (path.parent / "mlartifacts").as_uri())  # type: ignore[no-untyped-call]
    finally:
        # MLflow caches an engine per address; its connections would stay open on the renamed file.
        close_engine(address_of(path))
        remove_stray(path)


def remove_stray(path: Path) -> None:
    """Remove the empty folders that MLflow creates for the quoted path of an address, where that differs."""
    stray = Path(address_of(path).removeprefix("sqlite:///")).parent
    while not path.parent.is_relative_to(stray):
        try:
            stray.rmdir()
        except OSError:
            return
        stray = stray.parent


def _unquoted(path: str) -> str:
    return "".join(sorted(set(re.sub(r"[?%]", "", path))))
