"""A team's MLflow server, as cluster/mlflow has it: users log in, PostgreSQL is behind it. It is away for a minute."""

import base64
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest
from mlflow import MlflowClient
from mlflow.server import get_app_client

from gallop_ray.records.events import Step
from gallop_ray.records.folders import SweepFolder
from tests.faults import books
from tests.faults.mlflow_server import Server
from tests.faults.postgresql_server import PASSWORD as OF_THE_DATABASE
from tests.faults.postgresql_server import postgresql
from tests.sweep import command

pytestmark = pytest.mark.postgresql

_SHIPPED = command.ROOT / "cluster" / "mlflow" / "basic_auth.ini"
_ADMIN, _USER = ("admin", "planted-admin-password"), ("sweeper", "planted-user-password")
_IN_HEADERS = [base64.b64encode(":".join(each).encode()).decode() for each in (_ADMIN, _USER)]
_SECRETS = (OF_THE_DATABASE, _ADMIN[1], _USER[1], *_IN_HEADERS)
_AWAY_SECONDS = 60.0
_CONFIGURATIONS, _RUNS = 6, 12


@dataclass(frozen=True)
class Team:
    """A server, and all that a sweep writes: its records, and what is in this short folder."""

    server: Server
    place: Path

    @property
    def env(self) -> dict[str, str]:
        """The user's environment: nothing is written outside of the place, but for the pocket model."""
        cache = os.environ.get("GALLOP_RAY_CACHE") or str(Path.home() / ".cache" / "gallop_ray")
        folders = {"HOME": str(self.place), "TMPDIR": str(self.place), "RAY_TMPDIR": str(self.place)}
        return {**folders, "GALLOP_RAY_CACHE": cache, "MLFLOW_TRACKING_URI": self.server.uri}


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    with postgresql("mlflow") as address, tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as place:
        settings = tmp_path / "basic_auth.ini"
        settings.write_text(_SHIPPED.read_text().replace("postgresql://mlflow@postgres", address))
        login = {
            "PGPASSWORD": OF_THE_DATABASE,
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_AUTH_ADMIN_USERNAME": _ADMIN[0],
            "MLFLOW_AUTH_ADMIN_PASSWORD": _ADMIN[1],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-this-test",
        }
        server = Server(tmp_path, f"{address}/mlflow", login)
        try:
            _log_in(_ADMIN, monkeypatch)
            get_app_client("basic-auth", tracking_uri=server.uri).create_user(*_USER)
            _log_in(_USER, monkeypatch)
            yield Team(server, Path(place))
        finally:
            server.stop()


def _log_in(who: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(("USERNAME", "PASSWORD"), who, strict=True):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)


def test_a_server_that_is_away_for_a_minute(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = command.write_sweep(
        tmp_path,
        methods=[{"type": "gallop"}, {"type": "lora"}],
        search={"space": {"training.learning_rate": {"choice": [1e-3, 2e-3, 3e-3]}}},
        budget={"configurations": 3},
        # Runs that take longer than the server is away.
        training={**command.TINY["training"], "steps": 400},
    )
    folder = SweepFolder(tmp_path / "runs" / "tiny")
    process = command.start("run", sweep, env=team.env)
    try:
        _await(process, lambda: _in_mlflow(team.server.uri) > 4)
        team.server.stop()
        before, until = _over(folder), time.monotonic() + _AWAY_SECONDS
        while time.monotonic() < until:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(1)
        assert before < _over(folder) < _RUNS, "the sweep continued meanwhile"
        team.server.again()
        output, _ = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert output.count("MLflow cannot be reached") == 1, output
    assert "MLflow does not hold" not in output
    books.check(folder, team.server.uri, _CONFIGURATIONS, _RUNS)
    _check_steps(folder, team.server.uri)
    with pytest.MonkeyPatch.context() as nobody:
        nobody.delenv("MLFLOW_TRACKING_USERNAME")
        nobody.delenv("MLFLOW_TRACKING_PASSWORD")
        with pytest.raises(Exception, match="401"):
            _in_mlflow(team.server.uri)
    assert not [secret for secret in _SECRETS if secret in output]
    written = [path for place in (tmp_path, team.place) for path in place.rglob("*") if path.is_file()]
    assert len([path for path in written if path.is_relative_to(team.place)]) > 10, "where Ray writes was searched"
    found = {path: path.read_bytes() for path in written if not path.is_symlink()}
    assert [path for path, data in found.items() if any(secret.encode() in data for secret in _SECRETS)] == []


def _await(process: "Popen[str]", moment: Callable[[], bool]) -> None:
    until = time.monotonic() + 300
    while not moment():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.2)


def _over(folder: SweepFolder) -> int:
    return len(books.finished(folder))


def _in_mlflow(uri: str) -> int:
    """How many runs the server has of the sweep."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("gallop_ray")
    return 0 if experiment is None else len(client.search_runs([experiment.experiment_id]))


def _check_steps(folder: SweepFolder, uri: str) -> None:
    """Each step of each run once, in its order, as the run's own events have it."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("gallop_ray")
    assert experiment is not None
    sent = {}
    for run in client.search_runs([experiment.experiment_id], "tags.`gallop_ray.level` = 'seed'"):
        key = run.data.tags["configuration"], int(run.data.params["seed"])
        sent[key] = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "training/loss")]
    written = {}
    for run in folder.runs():
        steps = [event for event in run.events() if isinstance(event, Step) and event.loss is not None]
        written[run.configuration, run.seed] = [(event.step, event.loss) for event in steps]
    assert sent == written
