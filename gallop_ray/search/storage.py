"""Where a sweep's studies live: a journal beside the run folders, or the database that the sweep file names."""

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import optuna
import sqlalchemy
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.disk.regular import read_regular
from gallop_ray.records.files import parse_lines, read_json, write_json
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.secrets import hidden, hidden_in

_JOURNAL = "study.journal"
_LOG = logging.getLogger(__name__)
_AWAY = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
_LONGEST_PAUSE_SECONDS, _LONGEST_AWAY_SECONDS = 30.0, 3600.0
T = TypeVar("T")


def open_storage(folder: SweepFolder, sweep: Sweep) -> optuna.storages.BaseStorage:
    """The studies' storage, created if missing. For the one process that runs the sweep.

    Raises ValueError where the database cannot be used.
    """
    if (url := sweep.search.storage) is not None:
        return database(url)
    path = folder.path / _JOURNAL
    # A killed driver leaves the journal's lock file behind; we hold the sweep's lock, so no other driver is alive.
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if (reason := _broken(path, torn=True)) is not None:
        aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
        path.rename(aside)
        note_damage(path, reason, f"it is set aside as {aside.name}, and the studies are rebuilt from the run folders")
    return optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))


def read_storage(folder: SweepFolder, sweep: Sweep) -> optuna.storages.BaseStorage | None:
    """The studies' storage for readers, also while the sweep runs; None before there is one."""
    if (url := sweep.search.storage) is not None:
        return database(url) if _prefix_file(folder).exists() else None
    journal = folder.path / _JOURNAL
    if not journal.exists():
        return None
    if (reason := _broken(journal)) is not None:
        note_damage(journal, reason, "the next start rebuilds the studies from the run folders")
        return None
    return optuna.storages.JournalStorage(JournalFileBackend(str(journal)))


def _broken(journal: Path, torn: bool = False) -> str | None:
    """What is wrong with a journal; None for nothing, or no journal.

    torn: whether an incomplete last line counts as damage, because Optuna would append to it; a reader may see one
    while it is being written.
    """
    try:
        data = read_regular(journal)
    except FileNotFoundError:
        return None
    except Damaged as error:
        return error.reason
    found = parse_lines(data)
    if found.damage is not None or (torn and found.size < len(data)):
        return f"is damaged ({found.damage or 'its last line is torn'})"
    try:
        optuna.storages.JournalStorage(JournalFileBackend(str(journal))).get_all_studies()
    except Exception as error:  # Optuna replays the journal without checks and raises whatever comes of it
        return f"is damaged ({type(error).__name__}: {error})"
    return None


def study_name(folder: SweepFolder, sweep: Sweep, method: str) -> str:
    """The name of a method's study: with a random prefix in a database, which may hold sweeps of the same name."""
    if sweep.search.storage is None:
        return method
    state = read_json(_prefix_file(folder))
    if state is None:
        state = {"prefix": f"{folder.path.name}-{uuid.uuid4().hex[:8]}"}
        write_json(_prefix_file(folder), state)
    return f"{state['prefix']}/{method}"


def retry_while_away(work: Callable[[], T]) -> T:
    """Retry until the database is back. Active runs continue: the run folders keep what the studies miss.

    Raises at once what waiting cannot fix, and everything else after an hour.
    """
    pause, begun = 1.0, time.monotonic()
    while True:
        try:
            return work()
        except _AWAY as error:
            if not _passes(error) or time.monotonic() - begun > _LONGEST_AWAY_SECONDS:
                raise
            if pause == 1.0:
                _LOG.warning("the studies' database is away; nothing new begins until it is back (%s)", _reason(error))
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _passes(error: Exception) -> bool:
    """Whether an error may pass: the connection failed or the database was busy, not the request itself."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    return isinstance(cause, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError)


def _prefix_file(folder: SweepFolder) -> Path:
    return folder.path / "study.json"


def database(url: str) -> optuna.storages.BaseStorage:
    """The studies of a database, its tables created if missing. Raises ValueError where it cannot be used."""
    with _told(url):  # pre-ping: a connection that idled through a long run may have been closed by the server
        return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Turn errors of SQLAlchemy and its drivers into a ValueError without the password."""
    try:
        yield
    except ImportError as error:
        lacking = f"a package is missing: {error.name or error}"
        fix = "for PostgreSQL: pip install 'psycopg[binary]'"
        raise ValueError(f"search.storage {hidden(url)}: {lacking}; {fix}") from None
    except sqlalchemy.exc.ArgumentError:
        raise ValueError("search.storage is not the URL of a database, such as postgresql://HOST/NAME") from None
    except (*_AWAY, RuntimeError, ValueError) as error:  # RuntimeError: made by another version of Optuna
        reason = hidden_in(_reason(error), url)
        raise ValueError(f"search.storage {hidden(url)} cannot be used: {reason}") from None


def _reason(error: Exception) -> str:
    return hidden_in(str(error.__cause__ or error).strip().splitlines()[0])
