"""The client of MLflow. Everything here may raise; callers must be able to do without."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from gallop_ray.disk.bucket.address import copies, is_bucket
from gallop_ray.mlflow_mirror.extras import ID_TAG, Extras
from gallop_ray.mlflow_mirror.sqlite import address_of, file_of, is_broken, make_whole, prepare, remove_stray, set_aside
from gallop_ray.mlflow_mirror.trouble import REFUSALS, Refused
from gallop_ray.spec.metrics import maximized
from gallop_ray.spec.schema import Sweep

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_DATABASE = "mlflow.db"
_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Without this tag MLflow's UI may show the experiment as one of language model applications."""
_POINTS_PER_REQUEST = 800  # MLflow takes 1000 items per request, of which up to 100 each are parameters and tags
_PARAM_LENGTH = 500
_NAME_LENGTH = 250
# Characters that MLflow refuses, and what would look like one of their replacements.
_STRANGE = re.compile(r"[^/\w.\- :]|-(?=[0-9A-F]+-)")
_LOG = logging.getLogger(__name__)


class Point(NamedTuple):
    """A value of a metric; time in seconds since 1970."""

    name: str
    value: float
    time: float
    step: int = 0


def tracking_uri(sweep: Sweep) -> str:
    """The tracking uri: the sweep's, MLFLOW_TRACKING_URI, or an SQLite file in the output folder."""
    return sweep.tracking.uri or default_uri(sweep.output)


def default_uri(output: str) -> str:
    """MLFLOW_TRACKING_URI, or an SQLite file in the output folder."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip() or address_of(
        (copies(output, "work") if is_bucket(output) else Path(output).expanduser().resolve()) / _DATABASE
    )


def look(uri: str, experiment: str) -> None:
    """Look up the experiment as a starting sweep does, without creating anything. Raises what the sweep would meet."""
    if (path := file_of(uri)) is not None and not path.exists():
        return
    _find(_client(uri), experiment)


VIEW_TAG, VIEW = "mlflow.sharedViewState.", "gallop_ray"
"""MLflow's UI takes a view from the experiment's tag of this name, when its address asks for the key."""
_PARAMS = ("method", "density", "learning_rate", "model", "train")
_METRICS = ("id_accuracy", "ood_accuracy", "forget_ratio")


def view_of(metric: str) -> dict[str, object]:
    """The state of MLflow's list of runs, as its page keeps it.

    No attributes: they stand first, and wide ones such as the datasets push the metrics out of the window.
    """
    metrics = dict.fromkeys((metric, *_METRICS))
    return {
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": not maximized(metric),
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [
            *(f"metrics.`{metric_name(name)}`" for name in metrics),
            *(f"params.`{name}`" for name in _PARAMS),
        ],
    }


class MlflowStore:
    """One experiment of an MLflow server or database. Connecting imports MLflow and may take ten seconds.

    Args:
        uri: an MLflow tracking uri.
        experiment: created if missing.
        artifacts: folder for artifacts, unless a server decides on them.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        self.taken = 0  # batches and files
        self._strange: set[str] = set()
        self._client = _opened(uri, artifacts.with_name(_DATABASE))
        location = None if uri.startswith(("http:", "https:")) else artifacts.resolve().as_uri()
        self._experiment = _find(self._client, experiment) or self._made(experiment, location)
        self.extras = Extras(self._client, self._experiment, self.is_active)

    def _made(self, experiment: str, location: str | None) -> str:
        from mlflow.exceptions import MlflowException

        try:
            made = self._client.create_experiment(experiment, artifact_location=location, tags=_TRAINING)
        except MlflowException as error:
            # Another sweep that starts at the same time may have created it.
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or not (found := _find(self._client, experiment)):
                raise
            return found
        return str(made)

    def is_active(self, run_id: str) -> bool:
        """Whether the run exists and is not deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def find_or_create(self, identity: str, name: str, parent: str | None, start: float, tags: dict[str, str]) -> str:
        """The id of the run with that identity, which is created as RUNNING if missing."""
        found = self._client.search_runs([self._experiment], f"tags.`{ID_TAG}` = '{identity}'", max_results=1)
        return str(found[0].info.run_id) if found else self.create(identity, name, parent, start, tags)

    def create(self, identity: str, name: str, parent: str | None, start: float, tags: dict[str, str]) -> str:
        """Create a run with that identity as RUNNING. Returns its id."""
        family = {"mlflow.parentRunId": parent} if parent else {}
        run = self._client.create_run(
            self._experiment, start_time=_ms(start), tags={ID_TAG: identity, **family, **tags}, run_name=name
        )
        return str(run.info.run_id)

    def log(
        self,
        run_id: str,
        points: Sequence[Point] = (),
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, object] | None = None,
    ) -> None:
        """Send metrics, parameters and tags, 800 points per request. Raises Refused when MLflow rejects them.

        Repetition is harmless: sending the same points again changes nothing in an MLflow database.
        """
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(metric_name(point.name), point.value, _ms(point.time), point.step) for point in points]
        pairs = [Param(name, str(value)[:_PARAM_LENGTH]) for name, value in (params or {}).items()]
        marks = [RunTag(name, str(value)) for name, value in (tags or {}).items()]
        for first in range(0, max(1, len(metrics)), _POINTS_PER_REQUEST):
            self._send(run_id, metrics[first : first + _POINTS_PER_REQUEST], pairs, marks)
            pairs, marks = [], []

    def _send(
        self, run_id: str, metrics: "Sequence[Metric]", params: "Sequence[Param]", tags: "Sequence[RunTag]"
    ) -> None:
        """Send one request; if it is refused for some of its metrics, find those by halving and leave them out."""
        try:
            with _refusals():
                self._client.log_batch(run_id, metrics, params, tags)
            self.taken += 1
        except Refused as error:
            if not metrics or not self.is_active(run_id):
                raise
            if len(metrics) == 1 and not params and not tags:
                if metrics[0].key not in self._strange:
                    _LOG.warning("MLflow does not take the metric %s: %s", metrics[0].key, error)
                self._strange.add(metrics[0].key)
                return
            self._send(run_id, [], params, tags)
            half = (len(metrics) + 1) // 2
            for part in (metrics[:half], metrics[half:]):
                if part:
                    self._send(run_id, part, [], [])

    def set_status(self, run_id: str, status: Status, end: float | None = None) -> None:
        """Set the run's status; `end` in seconds since 1970, None for now. Raises Refused as `log`."""
        with _refusals():
            if status == "RUNNING":
                self._client.update_run(run_id, status)
            else:
                self._client.set_terminated(run_id, status, None if end is None else _ms(end))

    def upload(self, run_id: str, path: Path, folder: str = ".") -> None:
        """Upload a file to this folder of the run's artifacts. Raises Refused as `log`."""
        with _refusals():
            self._client.log_artifact(run_id, str(path), None if folder == "." else folder)
        self.taken += 1

    def upload_folder(self, run_id: str, path: Path) -> None:
        """Upload all files of a folder, below the folder's name. Raises Refused as `log`."""
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            self.upload(run_id, file, file.parent.relative_to(path.parent).as_posix())

    def upload_json(self, run_id: str, name: str, value: Mapping[str, object]) -> None:
        """Upload an object as the run's artifact of this name. Raises Refused as `log`."""
        with _refusals():
            self._client.log_dict(run_id, dict(value), name)

    def upload_text(self, run_id: str, name: str, text: str) -> None:
        """Upload a text as the run's artifact of this name. Raises Refused as `log`."""
        with _refusals():
            self._client.log_text(run_id, text, name)

    def show_by_default(self, metric: str) -> None:
        """Keep a view of the experiment's list with the columns that matter, the best value of the metric first.

        Not where the server does not let this user: the view is a convenience.
        """
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException):
            self._client.set_experiment_tag(self._experiment, f"{VIEW_TAG}{VIEW}", json.dumps(view_of(metric)))

    def upload_tables(self, run_id: str, tables: Mapping[str, Sequence[Mapping[str, object]]]) -> None:
        """Upload rows that share their columns as tables of these names, where there are any. Raises Refused as `log`.

        As MLflow's log_table, which would add to the rows that are there.
        """
        found = {name: rows for name, rows in tables.items() if rows}
        for name, rows in found.items():
            table = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
            self.upload_json(run_id, name, table)
        if found:
            known = [{"path": name, "type": "table"} for name in found]
            self.log(run_id, tags={"mlflow.loggedArtifacts": json.dumps(known)})

    def page(self, run_id: str, artifact: str) -> str:
        """The address of an artifact's page within MLflow's UI."""
        return f"#/experiments/{self._experiment}/runs/{run_id}/artifacts/{artifact}"


def metric_name(name: str) -> str:
    """A metric's name in characters that MLflow takes: `c++` becomes `c-2B--2B-`, and no two names the same one."""
    taken = _STRANGE.sub(lambda found: f"-{ord(found[0]):X}-", name)
    if len(taken) <= _NAME_LENGTH:
        return taken
    return f"{taken[: _NAME_LENGTH - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _client(uri: str) -> "MlflowClient":
    prepare()
    from mlflow import MlflowClient

    return MlflowClient(uri)


def _find(client: "MlflowClient", experiment: str) -> str | None:
    """The experiment's id; None where there is none. Raises Refused where it was deleted."""
    found = client.get_experiment_by_name(experiment)
    if found is not None and not found.experiment_id:
        raise Refused("what answers is no MLflow server: correct the address")
    if found is not None and found.lifecycle_stage != "active":
        restore = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        raise Refused(f"the experiment {experiment} was deleted: restore it ({restore}), or name another in tracking")
    return None if found is None else str(found.experiment_id)


def _opened(uri: str, own: Path) -> "MlflowClient":
    """A client of the store. Creates a missing SQLite file, and replaces a broken one if it is the sweeps' own."""
    path = file_of(uri)
    if path is None:
        return _client(uri)
    make_whole(path)
    try:
        client = _client(uri)  # checks the tables
    except Exception as error:
        if path.resolve() != own.resolve() or not is_broken(error):
            raise
        if aside := set_aside(path):
            _LOG.warning(
                "%s is broken (%s): it was renamed %s and is made again from the run folders of this sweep; "
                "those of another are sent when it is run again",
                *(path, str(error).splitlines()[0], aside.name),
            )
        make_whole(path)
        client = _client(uri)
    remove_stray(path)
    return client


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn MLflow's errors that repetition cannot fix into Refused."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in REFUSALS:
            raise
        raise Refused(str(error).strip().splitlines()[0]) from error


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
