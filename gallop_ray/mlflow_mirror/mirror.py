"""The driver's thread that mirrors run folders to MLflow. Whatever MLflow does, the sweep continues."""

import logging
import sys
import threading
import time
from pathlib import Path

from gallop_ray.disk.trouble import described_trouble, is_storage_trouble
from gallop_ray.mlflow_mirror.store import MlflowStore
from gallop_ray.mlflow_mirror.sync import SweepSync
from gallop_ray.mlflow_mirror.trouble import Trouble, trouble
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.secrets import hidden

_LOG = logging.getLogger(__name__)
_FIRST_SECONDS = 5.0
"""Before MLflow is imported: Ray starts meanwhile, and sooner if it has the processors for itself."""
_POLL_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_LAST_PAUSES = (1.0, 3.0)
"""Between the passes at a sweep's end, in seconds."""


class MlflowMirror:
    """Sends the contents of run folders to MLflow, while the sweep runs and once more at its end.

    While MLflow is away the folders are the buffer: it is tried again after 1, 2, 4, ... 60 seconds, and what it still
    misses at the end is sent by the next start of the same sweep.

    Args:
        folder: the sweep's records.
        sweep: the sweep they are about.
        uri: an MLflow tracking uri, see `tracking_uri`.
        source: the sweep file, shown as the runs' source; by default the sweep's folder.
    """

    def __init__(self, folder: SweepFolder, sweep: Sweep, uri: str, source: str | Path | None = None) -> None:
        self._folder, self._sweep, self._uri, self._source = folder, sweep, uri, source
        self._store: MlflowStore | None = None
        self._sync: SweepSync | None = None
        self._finished, self._now = False, False
        self._complete = False
        self._trouble: Trouble | None = None
        self._stop = threading.Event()
        # A daemon, because a server that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._mirror, name="mlflow-mirror", daemon=True)

    def start(self) -> None:
        """Start mirroring; returns at once."""
        self._thread.start()

    def stop(self, timeout: float = 60.0, finished: bool = True, now: bool = False, early: bool = False) -> bool:
        """Send what is left and end the thread.

        Args:
            timeout: seconds to wait; for a complete sweep repeated as long as MLflow accepts data.
            finished: whether the sweep is complete, and not interrupted.
            now: only mark nothing as running any more; the next start sends the rest.
            early: the sweep itself reports that it has not ended, and how to resume it.

        Returns:
            Whether MLflow holds everything.
        """
        self._finished, self._now = finished, now  # before the event, upon which the thread reads them
        self._stop.set()
        self._join(timeout)
        complete = self._complete and not self._thread.is_alive()
        if not complete and not early:
            first = "once it takes them, " if self._trouble and self._trouble.refuses else ""
            _LOG.warning("MLflow does not hold all of %s; %srun the sweep again to send it", self._folder.path, first)
        return complete

    def _join(self, timeout: float) -> None:
        """Wait for the thread: thousands of short runs can end faster than MLflow accepts them."""
        before = -1
        while self._thread.is_alive() and self._taken() > before:
            before = self._taken() if self._finished else sys.maxsize
            self._thread.join(timeout)

    def _taken(self) -> int:
        return self._store.taken if self._store else 0

    def _mirror(self) -> None:
        pause = _FIRST_SECONDS
        while not self._stop.wait(pause):
            done = self._attempt(last=False)
            pause = _POLL_SECONDS if done else min(2 * pause, _LONGEST_PAUSE_SECONDS)
        self._complete = self._attempt(last=True)
        # A request may be lost, and no later pass of this start makes up for it.
        for pause in _LAST_PAUSES:
            if self._complete or not self._finished or (self._trouble and self._trouble.refuses):
                return
            time.sleep(pause)
            self._complete = self._attempt(last=True)

    def _attempt(self, last: bool) -> bool:
        """One pass over the folders. Returns whether MLflow accepted everything."""
        try:
            sync = self._connected()
            if not (last and self._now):
                sync.sync()
            if last:
                sync.close(self._finished)
        except Exception as error:
            self._note_trouble(error)
            return False
        if self._trouble:
            _LOG.info("MLflow is back and has been sent what it missed")
        self._trouble = None
        return True

    def _connected(self) -> SweepSync:
        if self._sync is None:  # in the thread: importing MLflow and connecting may take ten seconds
            artifacts = Path(self._folder.path).resolve().parent / "mlartifacts"
            self._store = MlflowStore(self._uri, self._sweep.tracking.experiment, artifacts)
            self._sync = SweepSync(self._folder, self._sweep, self._store, self._source)
        return self._sync

    def _note_trouble(self, error: Exception) -> None:
        """One line when MLflow goes away or refuses, rather than one per second."""
        ours = isinstance(error, OSError) and error.filename is not None and is_storage_trouble(error)
        found = Trouble(True, described_trouble(error)) if ours else trouble(error, self._uri)
        if found != self._trouble:
            if ours:
                _LOG.warning("MLflow is not updated meanwhile: %s", found.reason)
            elif found.refuses:
                _LOG.warning("MLflow at %s refuses the records, which stay here: %s", hidden(self._uri), found.reason)
            elif self._trouble is None:
                _LOG.warning(
                    "MLflow cannot be reached; the run folders keep everything meanwhile (%.300s)", found.reason
                )
        self._trouble = found
