"""Brings MLflow up to date with a sweep folder. May raise at any point; calling it again continues from there."""

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.mlflow_mirror.artifacts import upload_sweep_artifacts
from gallop_ray.mlflow_mirror.extras import DatasetInput, dataset_inputs
from gallop_ray.mlflow_mirror.fields import (
    FINAL_STATUS,
    Sent,
    configuration_params,
    density_params,
    failure_tags,
    last_of,
    origin_tags,
    result_points,
    run_name,
    step_points,
    sweep_params,
    sweep_points,
    sweep_tags,
    validation_points,
)
from gallop_ray.mlflow_mirror.store import MlflowStore, Point, Status
from gallop_ray.mlflow_mirror.trouble import Refused
from gallop_ray.records.files import Record, read_json, write_json
from gallop_ray.records.folders import ConfigurationFolder, SweepFolder
from gallop_ray.records.results import RunResult
from gallop_ray.records.run_folder import Document, RunFolder
from gallop_ray.records.summary import over_seeds
from gallop_ray.records.watch import OpenConfigurations
from gallop_ray.spec.load import resolved_yaml
from gallop_ray.spec.schema import Sweep

_LOG = logging.getLogger(__name__)
_DOCUMENTS: tuple[Document, ...] = ("spec", "environment", "mask")
Version = tuple[int, int, int]
Tags = Mapping[str, object]


@dataclass(frozen=True)
class _Made:
    """An MLflow run that was just created: the parameters still to send, and the tags that it has."""

    params: Mapping[str, object]
    tags: Tags


class SweepSync:
    """Mirrors one sweep as MLflow runs: sweep > configuration > seed.

    What was sent is kept in each folder's mlflow.json. For a folder without one MLflow is searched by identity first,
    so that a kill between creating a run and noting it does not lead to a second one.
    """

    def __init__(self, folder: SweepFolder, sweep: Sweep, store: MlflowStore, source: str | Path | None = None) -> None:
        self._folder, self._sweep, self._store = folder, sweep, store
        self._origin = origin_tags(Path(source).absolute() if source else folder.path)
        self._open = OpenConfigurations(folder)
        self._sent: dict[Path, Sent] = {}
        self._ended: dict[Path, Version] = {}
        self._means: dict[Path, dict[Path, Version]] = {}
        self._refused: set[Path] = set()
        self._statuses: dict[Path, str] = {}
        self._counts: Counter[str] = Counter()
        self._uploads = True
        self._made: dict[Path, _Made] = {}
        self._datasets: list[DatasetInput] = []
        # An earlier start, or a failed request, may have created their MLflow runs without noting it.
        self._unsure = {
            path for each in folder.configurations() for path in (each.path, *(r.path for r in each.runs()))
        }
        self._id = self._begin_sweep()

    def _begin_sweep(self) -> str:
        path = self._folder.path
        state = read_json(path / "mlflow.json") or {"sweep_id": uuid.uuid4().hex, "run_id": None}
        write_json(path / "mlflow.json", state)
        run_id = state["run_id"]
        if run_id is None or not self._store.is_active(run_id):
            tags = {"gallop_ray.level": "sweep", **self._origin}
            run_id = self._store.find_or_create(state["sweep_id"], path.name, None, _begun(path), tags)
            self._store.log(run_id, params=sweep_params(self._sweep))
            write_json(path / "mlflow.json", {**state, "run_id": run_id})
            self._store.show_by_default(self._sweep.objective.metric)
        self._upload(partial(self._store.upload_text, str(run_id), "sweep.yaml", resolved_yaml(self._sweep)))
        self._store.log(str(run_id), tags=sweep_tags(self._sweep))
        self._store.set_status(run_id, "RUNNING")
        return str(run_id)

    def sync(self) -> None:
        """Send what is new. What MLflow refuses is skipped with a warning; other errors end this pass."""
        for configuration in self._open.look():
            self._unless_refused(configuration.path, partial(self._sync_configuration, configuration))
        self._send_counts()

    def _send_datasets(self, run_id: str) -> bool:
        """Send a run's datasets, with the first one also the sweep's own run's. Whether the run now has them."""
        if not self._datasets and (found := dataset_inputs(self._folder, self._sweep)):
            self._store.extras.log_datasets(self._id, found)
            self._datasets = found
        return bool(self._datasets) and self._store.extras.log_datasets(run_id, self._datasets)

    def _unless_refused(self, folder: Path, send: Callable[[], None]) -> None:
        if folder in self._refused:
            return
        try:
            send()
        except Refused as error:
            self._refused.add(folder)
            _LOG.warning("MLflow does not take the records of %s: %s", folder, error)
        except Damaged as error:
            note_damage(error.path, error.reason, "MLflow does not get it until that is fixed")

    def _sync_configuration(self, configuration: ConfigurationFolder) -> None:
        # The status before the runs: it is written after the results, so these will not be older than it.
        status = configuration.status().status
        self._statuses[configuration.path] = f"configurations_{status}"
        sent = self._sent_of(configuration, self._id, {"status": status} if status in FINAL_STATUS else {})
        versions = {run: run.version() for run in configuration.runs()}
        for run, version in versions.items():
            if self._ended.get(run.path) != version:
                self._unless_refused(run.path, partial(self._sync_run, run, version, sent))
        over = all(run.path in self._ended or run.path in self._refused for run in versions)
        self._send_configuration(configuration, list(versions), sent, status if over else "running")
        if status in FINAL_STATUS and over:
            self._open.close(configuration)
            self._forget(configuration.path, *(run.path for run in versions))

    def _forget(self, *folders: Path) -> None:
        """Drop what is kept in memory about ended folders, whose mlflow.json remembers: there may be thousands.

        Refused ones have no such note, and `close` still has to end them.
        """
        for folder in folders:
            self._means.pop(folder, None)
            if folder not in self._refused:
                self._sent.pop(folder, None)

    def _sync_run(self, run: RunFolder, version: Version, parent: Sent) -> None:
        """Send what is new in a run. `version` was taken before anything is read here."""
        result = run.result()  # before the events, of which all are there once there is a result
        tags: dict[str, str] = {"status": result.status, **failure_tags(result)} if result else {}
        sent = self._sent_of(run, parent.run_id, tags)
        tail = run.tail(sent.offset, sent.attempt)
        if tail.events:
            self._revive(run.path, sent)
            self._revive(run.path.parent, parent)
        ends = result is not None and not sent.ended
        steps = step_points(tail.events, sent.last_step)
        validations = validation_points(tail.events, sent.last_validation)
        points = steps + validations
        if result is not None and ends:
            points += result_points(result, _ended(result))
        configuration = ConfigurationFolder(run.path.parent).configuration() if ends else None
        self._log(run.path, sent, points, tags if ends else {})
        if result is not None and configuration is not None:
            self._add_params(sent, density_params(configuration, [result]))
        if tail.events or ends:
            sent.attempt, sent.offset = tail.attempt, tail.offset
            sent.last_step = last_of(steps, sent.last_step)
            sent.last_validation = last_of(validations, sent.last_validation)
            if result is not None and ends:
                self._upload(partial(self._store.upload_json, sent.run_id, "run.json", _whole(run, result)))
                self._put_status(sent, FINAL_STATUS[result.status], _ended(result))
            sent.save(run.path)  # last: after a kill before this everything is sent again, which changes nothing
        if result is None:
            self._ended.pop(run.path, None)
            return
        self._statuses[run.path] = f"runs_{result.status}"
        self._ended[run.path] = version

    def _sent_of(self, folder: ConfigurationFolder | RunFolder, parent: str, tags: Tags) -> Sent:
        """What was sent of a folder; if nothing, its MLflow run is created with these tags."""
        sent = self._sent.get(folder.path) or Sent.load(folder.path, self._id) or self._create(folder, parent, tags)
        self._sent[folder.path] = sent
        return sent

    def _create(self, folder: ConfigurationFolder | RunFolder, parent: str, tags: Tags) -> Sent:
        path, key = folder.path, folder.path.name
        if isinstance(folder, RunFolder):
            configuration = ConfigurationFolder(path.parent).configuration()
            key, level, ending, extra = path.parent.name, "seed", f"seed {folder.seed}", {"seed": folder.seed}
        else:
            configuration, level, ending, extra = folder.configuration(), "configuration", key.rpartition("-")[2], {}
        marks: dict[str, object] = {"gallop_ray.level": level, "sweep": self._folder.path.name, "configuration": key}
        marks |= {**self._origin, **tags}
        identity = f"{self._id}/{path.relative_to(self._folder.path).as_posix()}"
        name = run_name(configuration, self._sweep, ending)
        make = self._store.find_or_create if path in self._unsure else self._store.create
        fresh = path not in self._unsure
        self._unsure.add(path)
        run_id = make(identity, name, parent, _begun(path), {name: str(value) for name, value in marks.items()})
        self._made[path] = _Made(configuration_params(configuration, self._sweep) | extra, tags if fresh else {})
        return Sent(self._id, run_id)

    def _add_params(self, sent: Sent, params: Mapping[str, object]) -> None:
        """Send parameters that became known late. MLflow refuses to change one that has another value."""
        if params:
            with suppress(Refused):
                self._store.log(sent.run_id, params=params)

    def _log(self, folder: Path, sent: Sent, points: Sequence[Point], tags: Tags) -> None:
        """Send points and tags, with the parameters of a run that was just created, in one request.

        Tags that the run was created with are left out, which halves MLflow's time.
        """
        made = self._made.get(folder, _Made({}, {}))
        news = {name: value for name, value in tags.items() if made.tags.get(name) != value}
        if points or news or made.params:
            self._store.log(sent.run_id, points, made.params, news)
        changed = folder in self._made
        if not sent.datasets and self._send_datasets(sent.run_id):
            sent.datasets = changed = True
        self._made.pop(folder, None)
        if changed:
            sent.save(folder)

    def _revive(self, folder: Path, sent: Sent) -> None:
        """Mark a run as running again that was resumed after an interruption, or retried after a failure."""
        if sent.status != "RUNNING":
            self._set_status(folder, sent, "RUNNING", "running")

    def _upload(self, upload: Callable[[], None]) -> None:
        """Upload, or warn: artifacts are a convenience, and a server without storage for them takes everything else.

        If the server itself is away, the next request fails, and everything is repeated, artifacts included.
        """
        try:
            upload()
        except Exception as error:
            if self._uploads:
                _LOG.warning("MLflow does not store artifacts; they stay in %s (%s)", self._folder.path, error)
            self._uploads = False

    def _send_configuration(
        self, configuration: ConfigurationFolder, runs: list[RunFolder], sent: Sent, status: str
    ) -> None:
        """Send means over seeds when a seed has ended, and the configuration's end."""
        ended = {run.path: self._ended[run.path] for run in runs if run.path in self._ended}
        points: list[Point] = []
        if ended and not sent.ended and self._means.get(configuration.path) != ended:
            results, now = configuration.results(), time.time()
            means = over_seeds(results, self._sweep.objective.all_metrics)
            points = [Point(name, value, now) for name, value in means.items()]
            self._add_params(sent, density_params(configuration.configuration(), results))
        ends = status in FINAL_STATUS and sent.status != FINAL_STATUS[status]
        self._log(configuration.path, sent, points, {"status": status} if ends else {})
        self._means[configuration.path] = ended
        if ends:
            self._put_status(sent, FINAL_STATUS[status])
            sent.save(configuration.path)

    def _set_status(self, folder: Path, sent: Sent, status: Status, word: str) -> None:
        if sent.status != status:
            self._log(folder, sent, (), {"status": word})
            self._put_status(sent, status)
            sent.save(folder)

    def _put_status(self, sent: Sent, status: Status, end: float | None = None) -> None:
        self._store.set_status(sent.run_id, status, end)
        sent.status = status

    def _send_counts(self) -> None:
        counts = Counter(self._statuses.values())
        if counts != self._counts:
            now = time.time()
            names = sorted(set(counts) | set(self._counts))
            self._store.log(self._id, [Point(name, counts[name], now) for name in names])
            self._counts = counts

    def close(self, finished: bool) -> None:
        """Mark everything that has not ended as interrupted, so that nothing is shown as running.

        Args:
            finished: whether the sweep is complete.
        """
        for configuration in self._open.look():
            status = configuration.status().status
            for run in configuration.runs():
                self._end(run.path, "running")
            self._end(configuration.path, status)
            finished = finished and status in FINAL_STATUS
        if finished:
            self._store.log(self._id, sweep_points(self._folder, self._sweep, time.time()))
            self._upload(partial(upload_sweep_artifacts, self._folder, self._sweep, self._store, self._id))
        for path in self._refused:
            self._leave(path)
        self._store.set_status(self._id, "FINISHED" if finished else "KILLED")

    def _leave(self, folder: Path) -> None:
        """Do not leave a run RUNNING of which MLflow refused something; it may have been deleted."""
        sent = self._sent.get(folder) or Sent.load(folder, self._id)
        if sent is not None and not sent.ended:
            with suppress(Refused):
                self._store.set_status(sent.run_id, "KILLED")

    def _end(self, folder: Path, word: str) -> None:
        sent = self._sent.get(folder) or Sent.load(folder, self._id)
        if sent is None or sent.ended:
            return
        status, word = (FINAL_STATUS[word], word) if word in FINAL_STATUS else ("KILLED", "interrupted")
        self._unless_refused(folder, partial(self._set_status, folder, sent, status, word))


def _whole(run: RunFolder, result: RunResult) -> Record:
    """The run's documents as one: each upload costs more than its bytes."""
    found = {name: run.read(name) for name in _DOCUMENTS}
    return {"result": result.as_json(), **{name: document for name, document in found.items() if document is not None}}


def _ended(result: RunResult) -> float:
    return result.ended or time.time()


def _begun(folder: Path) -> float:
    """When the folder's sweep, configuration or run started, in seconds since 1970."""
    declared = [folder / name for name in ("configuration.json", "spec.json") if (folder / name).exists()]
    return declared[0].stat().st_mtime if declared else time.time()
