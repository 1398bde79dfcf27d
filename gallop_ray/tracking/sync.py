"""Bringing MLflow up to date with a sweep folder. May raise at any point; a repetition goes on from there."""

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from gallop_ray.spec.schema import Sweep
from gallop_ray.tracking.files import Record, read_json, write_json
from gallop_ray.tracking.mlflow_store import MlflowStore, Point, Refused, Status
from gallop_ray.tracking.records import MASK_REPORT, PAGE, ConfigurationFolder, RunFolder, SweepFolder
from gallop_ray.tracking.sent import (
    FINAL_STATUS,
    Sent,
    configuration_params,
    failure_tags,
    last_of,
    result_points,
    step_points,
    sweep_params,
    validation_points,
)
from gallop_ray.tracking.summary import over_seeds
from gallop_ray.tracking.watch import OpenConfigurations

_LOG = logging.getLogger(__name__)
_ARTIFACTS = ("result.json", "mask.json", "spec.json", "environment.json")
_TAGS = ("method", "density", "seed")
Version = tuple[int, int, int]


class SweepSync:
    """Mirrors one sweep as MLflow runs: sweep > configuration > seed.

    What was sent is kept in the mlflow.json of each folder. A folder without one is first looked for in MLflow by
    its identity, so that a kill between making a run and noting it makes no second one.
    """

    def __init__(self, folder: SweepFolder, sweep: Sweep, store: MlflowStore) -> None:
        self._folder, self._sweep, self._store = folder, sweep, store
        self._open = OpenConfigurations(folder)
        self._sent: dict[Path, Sent] = {}
        self._ended: dict[Path, Version] = {}
        self._means: dict[Path, dict[Path, Version]] = {}
        self._refused: set[Path] = set()
        self._statuses: dict[Path, str] = {}
        self._counts: Counter[str] = Counter()
        self._uploads = True
        self._params: dict[Path, dict[str, object]] = {}
        # An earlier start, or a request that failed, may have made their MLflow runs without noting it.
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
            tags = {"gallop_ray.level": "sweep"}
            run_id = self._store.find_or_create(state["sweep_id"], path.name, None, _begun(path), tags)
            self._store.log(run_id, params=sweep_params(self._sweep))
            write_json(path / "mlflow.json", {**state, "run_id": run_id})
        self._store.set_status(run_id, "RUNNING")
        return str(run_id)

    def sync(self) -> None:
        """Send what is new. What MLflow refuses is left out, with a warning; other errors end this pass."""
        for configuration in self._open.look():
            self._unless_refused(configuration.path, partial(self._sync_configuration, configuration))
        self._send_counts()

    def _unless_refused(self, folder: Path, send: Callable[[], None]) -> None:
        if folder in self._refused:
            return
        try:
            send()
        except Refused as error:
            self._refused.add(folder)
            _LOG.warning("MLflow does not take the records of %s: %s", folder, error)

    def _sync_configuration(self, configuration: ConfigurationFolder) -> None:
        # The status is read before the runs: whoever writes it has written the results first.
        status = configuration.status()["status"]
        self._statuses[configuration.path] = f"configurations_{status}"
        sent = self._find_sent(configuration.path, configuration.key, self._id)
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
        """Of what has ended, the folders remember what was sent: thousands of configurations would fill the memory."""
        for folder in folders:
            self._sent.pop(folder, None)
            self._means.pop(folder, None)

    def _sync_run(self, run: RunFolder, version: Version, parent: Sent) -> None:
        """Send a run's news. `version` was taken before anything is read here, and the result before the events."""
        result = run.result()
        sent = self._find_sent(run.path, f"seed {run.seed}", parent.run_id, run.seed)
        tail = run.tail(sent.offset, sent.attempt)
        if tail.events:
            self._revive(run.path, sent)
            self._revive(run.path.parent, parent)
        ends = result is not None and not sent.ended
        steps, tags = step_points(tail.events, sent.last_step), dict[str, object]()
        validations = validation_points(tail.events, sent.last_validation)
        points = steps + validations
        if result is not None and ends:
            points += result_points(result, _ended(result))
            tags = {"status": result["status"], **failure_tags(result)}
        self._log(run.path, sent, points, tags)
        if tail.events or ends:
            sent.attempt, sent.offset = tail.attempt, tail.offset
            sent.last_step = last_of(steps, sent.last_step)
            sent.last_validation = last_of(validations, sent.last_validation)
            if result is not None and ends:
                self._upload(run.path, _ARTIFACTS, sent.run_id)
                self._put_status(sent, FINAL_STATUS[result["status"]], _ended(result))
            sent.save(run.path)
        if result is None:
            self._ended.pop(run.path, None)
            return
        self._statuses[run.path] = f"runs_{result['status']}"
        self._ended[run.path] = version

    def _find_sent(self, folder: Path, name: str, parent: str, seed: int | None = None) -> Sent:
        sent = self._sent.get(folder) or Sent.load(folder, self._id) or self._create(folder, name, parent, seed)
        self._sent[folder] = sent
        return sent

    def _create(self, folder: Path, name: str, parent: str, seed: int | None) -> Sent:
        configuration = ConfigurationFolder(folder if seed is None else folder.parent).configuration()
        params = configuration_params(configuration, self._sweep) | ({} if seed is None else {"seed": seed})
        tags = {"gallop_ray.level": "configuration" if seed is None else "seed"}
        tags |= {name: str(value) for name, value in params.items() if name in _TAGS}
        identity = f"{self._id}/{folder.relative_to(self._folder.path).as_posix()}"
        make = self._store.find_or_create if folder in self._unsure else self._store.create
        self._unsure.add(folder)
        run_id = make(identity, name, parent, _begun(folder), tags)
        self._params[folder] = params
        return Sent(self._id, run_id)

    def _log(self, folder: Path, sent: Sent, points: Sequence[Point], tags: Mapping[str, object]) -> None:
        """Send points and tags, with the parameters of a run that was just made, in one request."""
        params = self._params.get(folder)
        if points or tags or params:
            self._store.log(sent.run_id, points, params, tags)
        if self._params.pop(folder, None):
            sent.save(folder)

    def _revive(self, folder: Path, sent: Sent) -> None:
        """A run that goes on after an interruption, or after a failure, is running again."""
        if sent.status != "RUNNING":
            self._set_status(folder, sent, "RUNNING", "running")

    def _upload(self, folder: Path, names: Sequence[str], run_id: str) -> None:
        """Artifacts are a convenience: a server that has no place for them still takes everything else.

        When the server itself is away, the next request says so, and all is repeated with the artifacts.
        """
        try:
            for name in names:
                if (folder / name).exists():
                    self._store.upload(run_id, folder / name)
        except Exception as error:
            if self._uploads:
                _LOG.warning("MLflow does not store artifacts; they stay in %s (%s)", self._folder.path, error)
            self._uploads = False

    def _send_configuration(
        self, configuration: ConfigurationFolder, runs: list[RunFolder], sent: Sent, status: str
    ) -> None:
        """Send means over seeds when a seed has ended, and the end; of what has ended all was sent before."""
        ended = {run.path: self._ended[run.path] for run in runs if run.path in self._ended}
        points: list[Point] = []
        if ended and not sent.ended and self._means.get(configuration.path) != ended:
            means, now = over_seeds(configuration.results()), time.time()
            points = [Point(name, value, now, int(means["n_seeds"])) for name, value in means.items()]
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
        """Leave nothing shown as running: what has no end yet was interrupted.

        Args:
            finished: whether the sweep is complete.
        """
        for configuration in self._open.look():
            status = configuration.status()["status"]
            for run in configuration.runs():
                self._end(run.path, "running")
            self._end(configuration.path, status)
            finished = finished and status in FINAL_STATUS
        if finished:
            self._upload(self._folder.path, (*MASK_REPORT, PAGE), self._id)
        self._store.set_status(self._id, "FINISHED" if finished else "KILLED")

    def _end(self, folder: Path, word: str) -> None:
        sent = self._sent.get(folder) or Sent.load(folder, self._id)
        if sent is None or sent.ended:
            return
        status, word = (FINAL_STATUS[word], word) if word in FINAL_STATUS else ("KILLED", "interrupted")
        self._unless_refused(folder, partial(self._set_status, folder, sent, status, word))


def _ended(result: Record) -> float:
    return float(result.get("ended") or time.time())


def _begun(folder: Path) -> float:
    """When the folder's sweep, configuration or run began, in seconds since 1970."""
    declared = [folder / name for name in ("configuration.json", "spec.json") if (folder / name).exists()]
    return declared[0].stat().st_mtime if declared else time.time()
