"""What MLflow's errors mean: it is away and will be back, or it refuses the request and something has to change."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gallop_ray.spec.secrets import hidden, hidden_in

_LONGEST = 500
_PLACE = re.compile(r"[\w.-]+:\d+(/.*)?")
_LOGIN = "log in by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_KINDS = "tracking.uri names a server (http://HOST:5000) or a database (postgresql://HOST/NAME, sqlite:///FILE)"
_NO_SERVER = "there is no MLflow server at this address"
_FIXES = (
    ("Can't locate revision", "its tables are of a newer MLflow than the installed one: install that, or name another"),
    ("filesystem tracking backend", "a folder of files needs MLFLOW_ALLOW_FILE_STORE=true; better name a database"),
    ("error code 401", _LOGIN),
    ("error code 403", _LOGIN),
    ("error code 404", _NO_SERVER),
    ("not in a valid JSON format", _NO_SERVER),
    ("Databricks", "set up its login (databricks auth login), or name another store in tracking.uri"),
    ("unsupported URI", _KINDS),
    ("Could not parse SQLAlchemy URL", _KINDS),
    ("Invalid url", "in a user name or password write @ as %40 and / as %2F"),
    ("password authentication failed", "give the right user and password"),
    ("no password supplied", "give the password, in PGPASSWORD or ~/.pgpass"),
    ("does not exist", "make the database first"),
    ("readonly database", "make it writable"),
    ("unable to open database file", "give a path that can be written to"),
    ("is not a database", "move the file away, or name another in tracking.uri"),
)
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST")
"""MLflow's error codes for which repetition is useless."""


class Refused(Exception):
    """MLflow refuses a request, and repeating it is useless (for example, somebody has deleted the run)."""


class Trouble(NamedTuple):
    """Why MLflow accepts nothing. refuses: waiting does not help, and `reason` says what has to be changed."""

    refuses: bool
    reason: str


def trouble(error: Exception, uri: str) -> Trouble:
    """What an error of MLflow's means for the user of this store; the reason contains no password."""
    text = _with_status(error, uri)
    said = hidden_in(_first_sentences(text), uri)
    fix = next(_fixes(error, text, uri), "")
    return Trouble(bool(fix) or isinstance(error, Refused), f"{said.rstrip('.')}; {fix}" if fix else said)


def _with_status(error: Exception, uri: str) -> str:
    """The error's message. For JSON that is not MLflow's own, MLflow drops the HTTP status, so ask once more."""
    text = str(error).strip() or type(error).__name__
    from mlflow.exceptions import RestException

    if not isinstance(error, RestException) or "error_code" in error.json:
        return text
    try:
        return f"failed with error code {_status(uri)}: {json.dumps(error.json)}"
    except Exception:  # if asking again fails, the first answer has to do
        return text


def _status(uri: str) -> int:
    from mlflow.utils.rest_utils import http_request

    from gallop_ray.compat.mlflow import login_of

    question, name = "/api/2.0/mlflow/experiments/get-by-name", {"experiment_name": "Default"}
    answer: Any = http_request(login_of(uri), question, "GET", params=name, raise_on_status=False)  # type: ignore[no-untyped-call]
    return int(answer.status_code)


def _fixes(error: Exception, text: str, uri: str) -> Iterator[str]:
    if _PLACE.fullmatch(uri):
        yield f"it is not an address: write http://{hidden(uri)}"
    if isinstance(error, ImportError):
        yield "install the database's driver; for PostgreSQL: pip install 'psycopg[binary]'"
    if found := re.search(r"out-of-date database schema \(found version (\w+)", text):
        yield _migration(found[1], uri)
    yield from (fix for words, fix in _FIXES if words in text)


def _migration(version: str, uri: str) -> str:
    import mlflow.store.db_migrations

    steps = Path(str(mlflow.store.db_migrations.__path__[0])) / "versions"
    if version == "None" or any(steps.glob(f"{version}_*.py")):
        return f"its tables are of an older MLflow: keep a copy of it, and run: mlflow db upgrade '{hidden(uri)}'"
    return f"its tables are of a newer MLflow: install that (here is {mlflow.__version__}), or name another store"


def _first_sentences(text: str) -> str:
    """The message without SQL and links, which fill a page and add nothing."""
    line = re.split(r"\n|\s\(Background on|\[SQL", text)[0]
    if "out-of-date database schema" in line or "filesystem tracking backend" in line:
        line = line.partition(". ")[0]
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
