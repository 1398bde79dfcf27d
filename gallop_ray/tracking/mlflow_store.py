"""The only place that knows MLflow. Everything here may raise; whoever calls it must go on without."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from gallop_ray.spec.schema import Sweep

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_DATABASE = "mlflow.db"
_ID_TAG = "gallop_ray.id"
_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Without it MLflow's page may show the experiment as one of language model applications."""
_POINTS_PER_REQUEST = 800  # of the 1000 that MLflow takes; up to 100 each may be parameters and tags
_PARAM_LENGTH = 500
# One attempt and short waits: the mirror repeats by itself, and the end of a sweep must not hang on a dead server.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST")


class Refused(Exception):
    """MLflow is there and does not want this: repeating it is of no use (for example, somebody deleted the run)."""


class Point(NamedTuple):
    """A value of a metric; time in seconds since 1970."""

    name: str
    value: float
    time: float
    step: int = 0


def tracking_uri(sweep: Sweep) -> str:
    """Where MLflow records go: the sweep's uri, MLFLOW_TRACKING_URI, or an SQLite file in the output folder."""
    return sweep.tracking.uri or default_uri(sweep.output)


def default_uri(output: str) -> str:
    """MLFLOW_TRACKING_URI, or an SQLite file in the output folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(output).expanduser().resolve() / _DATABASE}"


class MlflowStore:
    """One experiment of an MLflow server or database. Connecting imports MLflow and may take ten seconds.

    Args:
        uri: an MLflow tracking uri.
        experiment: made when it is not there.
        artifacts: folder for artifacts, unless a server decides about them.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        _silence()
        from mlflow import MlflowClient

        self.taken = 0  # batches and files
        self._client = MlflowClient(uri)
        found = self._client.get_experiment_by_name(experiment)
        location = None if uri.startswith(("http:", "https:")) else artifacts.resolve().as_uri()
        self._experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment(experiment, artifact_location=location, tags=_TRAINING)
        )

    def is_active(self, run_id: str) -> bool:
        """Whether the run is there and was not deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def find_or_create(self, identity: str, name: str, parent: str | None, start: float, tags: dict[str, str]) -> str:
        """The id of the run of that identity, which is made, RUNNING, when it is not there."""
        found = self._client.search_runs([self._experiment], f"tags.`{_ID_TAG}` = '{identity}'", max_results=1)
        return str(found[0].info.run_id) if found else self.create(identity, name, parent, start, tags)

    def create(self, identity: str, name: str, parent: str | None, start: float, tags: dict[str, str]) -> str:
        """Make a run of that identity, RUNNING; its id."""
        family = {"mlflow.parentRunId": parent} if parent else {}
        run = self._client.create_run(
            self._experiment, start_time=_ms(start), tags={_ID_TAG: identity, **family, **tags}, run_name=name
        )
        return str(run.info.run_id)

    def log(
        self,
        run_id: str,
        points: Sequence[Point] = (),
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, object] | None = None,
    ) -> None:
        """Send metrics, parameters and tags, 800 points a request; Refused when MLflow does not take them.

        Sending the same points again changes nothing in an MLflow database, which makes repetition harmless.
        """
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(point.name, point.value, _ms(point.time), point.step) for point in points]
        pairs = [Param(name, str(value)[:_PARAM_LENGTH]) for name, value in (params or {}).items()]
        marks = [RunTag(name, str(value)) for name, value in (tags or {}).items()]
        with _refusals():
            for first in range(0, max(1, len(metrics)), _POINTS_PER_REQUEST):
                self._client.log_batch(run_id, metrics[first : first + _POINTS_PER_REQUEST], pairs, marks)
                pairs, marks = [], []
                self.taken += 1

    def set_status(self, run_id: str, status: Status, end: float | None = None) -> None:
        """Set the run's status; `end` in seconds since 1970, None for now. Refused as in `log`."""
        with _refusals():
            if status == "RUNNING":
                self._client.update_run(run_id, status)
            else:
                self._client.set_terminated(run_id, status, None if end is None else _ms(end))

    def upload(self, run_id: str, path: Path, folder: str = ".") -> None:
        """Store a file as the run's artifact, in this folder of its artifacts. Refused as in `log`."""
        with _refusals():
            self._client.log_artifact(run_id, str(path), None if folder == "." else folder)
        self.taken += 1

    def upload_folder(self, run_id: str, path: Path) -> None:
        """Store all that is in a folder as artifacts below the folder's name. Refused as in `log`."""
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            self.upload(run_id, file, file.parent.relative_to(path.parent).as_posix())

    def upload_json(self, run_id: str, name: str, value: Mapping[str, object]) -> None:
        """Store an object as the run's artifact of this name. Refused as in `log`."""
        with _refusals():
            self._client.log_dict(run_id, dict(value), name)

    def page(self, run_id: str, artifact: str) -> str:
        """The address of an artifact's page within MLflow's pages."""
        return f"#/experiments/{self._experiment}/runs/{run_id}/artifacts/{artifact}"


@contextmanager
def _refusals() -> Iterator[None]:
    """Turns MLflow's errors that repetition cannot mend into Refused."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in _REFUSALS:
            raise
        raise Refused(str(error).strip().splitlines()[0]) from error


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _silence() -> None:
    """MLflow and alembic tell of every table they make, on loggers that MLflow sets up while it is imported."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
