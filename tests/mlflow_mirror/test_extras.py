"""Datasets and the best adapter in MLflow, once each whatever happens; and servers that know neither."""

import http.server
import json
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gallop_ray.mlflow_mirror.mirror import MlflowMirror
from gallop_ray.mlflow_mirror.store import tracking_uri
from gallop_ray.records.identity import settle
from gallop_ray.spec.schema import Sweep
from tests.faults.mlflow_server import Server
from tests.sweep.written import Written, small_sweep

HASHES = {
    "range": {"train": "a1" * 32, "validation": "b2" * 32, "test": "c3" * 32},
    "max": {"train": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "test": "e5" * 32},
}
USED = [("range", "a1" * 6, "training"), ("range", "b2" * 6, "validation"), ("range", "c3" * 6, "test")]
USED.append(("max", "e5" * 6, "test"))


def begin(output: Path, uri: str | None = None) -> Written:
    return Written(small_sweep(output, tracking={"uri": uri}))


def end(written: Written, method: str, accuracy: float, rate: float = 0.1) -> None:
    """A configuration with both of its seeds, the second a little better than the first."""
    for seed in written.sweep.seeds:
        run = written.begin(method, rate, seed)
        run.adapter.write_bytes(f"{method} {accuracy} {seed}".encode())
        written.end(run, accuracy + 0.01 * seed)


def mirror(written: Written, finished: bool = True) -> bool:
    thread = MlflowMirror(written.folder, written.sweep, tracking_uri(written.sweep))
    thread.start()
    return thread.stop(timeout=100, finished=finished)


def found(sweep: Sweep) -> tuple[list[Any], list[Any], Any]:
    """All runs of MLflow, all models, and the client."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri(sweep))
    experiment = client.get_experiment_by_name(sweep.tracking.experiment).experiment_id
    return list(client.search_runs([experiment])), list(client.search_logged_models([experiment])), client


def datasets(run: Any) -> list[tuple[str, str, str]]:
    return [(each.dataset.name, each.dataset.digest, each.tags[0].value) for each in run.inputs.dataset_inputs]


def check(written: Written, runs: int, adapter: bytes, tmp: Path) -> None:
    """Every run has its datasets once, and the sweep the one model, whose file is the best adapter."""
    every, models, _ = found(written.sweep)
    assert len(every) == runs
    for run in every:
        assert sorted(datasets(run)) == sorted(USED)
        source = json.loads(run.inputs.dataset_inputs[0].dataset.source)
        assert (source["uri"], source["task"] in HASHES) == ("generated", True)
    (model,) = models
    (sweep,) = (run for run in every if run.data.tags["gallop_ray.level"] == "sweep")
    assert (model.name, model.status.value, model.source_run_id) == ("small", "READY", sweep.info.run_id)
    assert [each.model_id for run in every for each in run.outputs.model_outputs] == [model.model_id]
    from mlflow.artifacts import download_artifacts

    tmp.mkdir()
    folder = download_artifacts(model.artifact_location, dst_path=str(tmp), tracking_uri=tracking_uri(written.sweep))
    assert (Path(folder) / "adapter.safetensors").read_bytes() == adapter


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"))
    yield started
    started.stop()


@pytest.fixture(params=["SQLite", "folder", pytest.param("server", marks=pytest.mark.long)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The address of a store of each kind."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if request.param == "folder":
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        return (tmp_path / "mlruns").as_uri()
    return request.getfixturevalue("server").uri if request.param == "server" else None


def test_datasets_and_the_best_adapter_arrive_once_whatever_was_noted_of_it(store: str | None, tmp_path: Path) -> None:
    written = begin(tmp_path / "ru%20n?s#", store)
    end(written, "gallop", 0.5)
    assert mirror(written, finished=False), "begun by a version that kept no hashes"
    settle(written.folder, {"examples of": HASHES})
    assert mirror(written)
    check(written, 4, b"gallop 0.5 1", tmp_path / "first")
    # A kill after MLflow was told, and before that was noted.
    for note in written.folder.path.glob("*/**/mlflow.json"):
        note.unlink()
    end(written, "random", 0.7)
    for _ in range(2):
        assert mirror(written)
    check(written, 7, b"random 0.7 1", tmp_path / "second")
    every, (model,), _ = found(written.sweep)
    assert model.tags["configuration"].startswith("random")
    assert {run.info.status for run in every} == {"FINISHED"}


def test_a_model_that_a_kill_left_by_half_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    written = begin(tmp_path)
    settle(written.folder, {"examples of": HASHES})
    end(written, "gallop", 0.5)
    assert mirror(written, finished=False)
    every, _, client = found(written.sweep)
    (sweep,) = (run.info for run in every if run.data.tags["gallop_ray.level"] == "sweep")
    client.create_logged_model(sweep.experiment_id, "small", sweep.run_id, {"gallop_ray.id": sweep.run_id})
    assert mirror(written)
    check(written, 4, b"gallop 0.5 1", tmp_path / "files")


@contextmanager
def older(uri: str, upgraded: threading.Event) -> Iterator[str]:
    """A server in front of another; until it is upgraded it has none of what came with datasets and with models."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not upgraded.is_set() and ("log-inputs" in self.path or "logged-models" in self.path):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
            kept = {name: value for name, value in self.headers.items() if name in ("Content-Type", "Authorization")}
            asked = urllib.request.Request(uri + self.path, body, kept, method=self.command)
            try:
                with urllib.request.urlopen(asked) as answer:
                    self._pass_on(answer)
            except urllib.error.HTTPError as error:
                self._pass_on(error)

        do_POST = do_PUT = do_PATCH = do_GET

        def _pass_on(self, answer: Any) -> None:
            self.send_response(answer.status)
            self.end_headers()
            self.wfile.write(answer.read())

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as front:
        threading.Thread(target=front.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{front.server_port}"
        front.shutdown()


def test_an_older_server_is_said_once_and_gets_the_rest(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    upgraded = threading.Event()
    with older(server.uri, upgraded) as front, caplog.at_level(logging.WARNING):
        written = Written(small_sweep(tmp_path, tracking={"uri": front, "experiment": "older"}))
        settle(written.folder, {"examples of": HASHES})
        end(written, "gallop", 0.5)
        assert mirror(written)
        for what in ("datasets", "models"):
            assert caplog.text.count(f"MLflow takes no {what}, but all the rest (its version knows none)") == 1
        upgraded.set()
        every, models, client = found(written.sweep)
        assert ([run.info.status for run in every], models) == (["FINISHED"] * 4, [])
        (sweep,) = (run.info for run in every if run.data.tags["gallop_ray.level"] == "sweep")
        assert [each.path for each in client.list_artifacts(sweep.run_id)] == ["adapter", "sweep.yaml"]
        assert mirror(written), "what the older version did not take is sent"
        check(written, 4, b"gallop 0.5 1", tmp_path / "files")
