"""Bringing MLflow up to date with a sweep folder. May raise at any point; a repetition goes on from there."""

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gallop_ray.spec.schema import Sweep
from gallop_ray.tracking.files import Record, read_json, write_json
from gallop_ray.tracking.mlflow_store import MlflowStore, Point, Refused, Status
from gallop_ray.tracking.records import MASK_REPORT, ConfigurationFolder, RunFolder, SweepFolder
from gallop_ray.tracking.sent import (
    FINAL_STATUS,
    Sent,
    configuration_params,
    result_points,
    step_points,
    sweep_params,
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
        self._send_means(configuration, list(versions), sent)
        over = all(run.path in self._ended or run.path in self._refused for run in versions)
        if status in FINAL_STATUS and over:
            self._set_status(configuration.path, sent, FINAL_STATUS[status], status)
            self._open.close(configuration)

    def _sync_run(self, run: RunFolder, version: Version, parent: Sent) -> None:
        """Send a run's news. `version` was taken before anything is read here, and the result before the events."""
        result = run.result()
        sent = self._find_sent(run.path, f"seed {run.seed}", parent.run_id, run.seed)
        tail = run.tail(sent.offset, sent.attempt)
        if tail.events:
            self._revive(run.path, sent)
            self._revive(run.path.parent, parent)
            self._send_steps(sent, tail.events)
            sent.attempt, sent.offset = tail.attempt, tail.offset
            sent.save(run.path)
        if result is None:
            self._ended.pop(run.path, None)
            return
        if not sent.ended:
            self._send_result(run, sent, result)
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
        run_id = self._store.find_or_create(identity, name, parent, _begun(folder), tags)
        self._store.log(run_id, params=params)
        sent = Sent(self._id, run_id)
        sent.save(folder)
        return sent

    def _revive(self, folder: Path, sent: Sent) -> None:
        """A run that goes on after an interruption, or after a failure, is running again."""
        if sent.status != "RUNNING":
            self._set_status(folder, sent, "RUNNING", "running")

    def _send_steps(self, sent: Sent, events: list[Record]) -> None:
        points = step_points(events, sent.last_step)
        if points:
            self._store.log(sent.run_id, points)
            sent.last_step = points[-1].step

    def _send_result(self, run: RunFolder, sent: Sent, result: Record) -> None:
        ended = float(result.get("ended") or time.time())
        reason = {"reason": result["reason"]} if result.get("reason") else {}
        self._store.log(sent.run_id, result_points(result, ended), tags=reason)
        self._upload(run.path, _ARTIFACTS, sent.run_id)
        self._set_status(run.path, sent, FINAL_STATUS[result["status"]], result["status"], ended)

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

    def _send_means(self, configuration: ConfigurationFolder, runs: list[RunFolder], sent: Sent) -> None:
        """Send means over seeds when a seed has ended; those of a configuration that has ended were sent before."""
        ended = {run.path: self._ended[run.path] for run in runs if run.path in self._ended}
        if not ended or sent.ended or self._means.get(configuration.path) == ended:
            return
        means = over_seeds(configuration.results())
        now, seeds = time.time(), int(means["n_seeds"])
        self._store.log(sent.run_id, [Point(name, value, now, seeds) for name, value in means.items()])
        self._means[configuration.path] = ended

    def _set_status(self, folder: Path, sent: Sent, status: Status, word: str, end: float | None = None) -> None:
        if sent.status != status:
            self._store.log(sent.run_id, tags={"status": word})
            self._store.set_status(sent.run_id, status, end)
            sent.status = status
            sent.save(folder)

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
            self._upload(self._folder.path, MASK_REPORT, self._id)
        self._store.set_status(self._id, "FINISHED" if finished else "KILLED")

    def _end(self, folder: Path, word: str) -> None:
        sent = self._sent.get(folder) or Sent.load(folder, self._id)
        if sent is None or sent.ended:
            return
        status, word = (FINAL_STATUS[word], word) if word in FINAL_STATUS else ("KILLED", "interrupted")
        self._unless_refused(folder, partial(self._set_status, folder, sent, status, word))


def _begun(folder: Path) -> float:
    """When the folder's sweep, configuration or run began, in seconds since 1970."""
    declared = [folder / name for name in ("configuration.json", "spec.json") if (folder / name).exists()]
    return declared[0].stat().st_mtime if declared else time.time()
