"""The report, with importances from Optuna's studies; `python -m gallop_ray.sweep.report DIR` is its process."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gallop_ray.disk.bucket.lease import LEASE_VARIABLE, borrow, holder_of
from gallop_ray.disk.bucket.tree import alone, push
from gallop_ray.records.folders import MASK_REPORT, SweepFolder
from gallop_ray.records.source import handed_down
from gallop_ray.records.stored import open_sweep
from gallop_ray.spec.schema import Sweep

_LOG = logging.getLogger(__name__)


def report(folder: SweepFolder, sweep: Sweep, output: str | None = None) -> Path:
    """Write the report of a sweep, running or over, and return the page's path. Needs no Ray.

    Args:
        output: the page to write, ending in .html; by default <sweep>/report/report.html. ValueError for a folder.
    """
    path = Path(output).expanduser().resolve() if output else None
    if path and (path.is_dir() or path.suffix != ".html"):
        raise ValueError(f"--output must be an .html file, got {output}")
    # Imported here: the driver, which only starts the process, needs neither matplotlib nor Optuna's importances.
    from gallop_ray.reporting.report.write import write_report
    from gallop_ray.search.importance import importances

    if path is not None:
        return write_report(folder, sweep, importances(folder, sweep), path)
    with alone(folder.path):
        page = write_report(folder, sweep, importances(folder, sweep))
        push(page.parent)
    return page


class ReportApart:
    """The report and the masks' report, written by a separate process, which keeps the driver's memory small.

    It may start as soon as all results are written. Leaving the context ends it, finished or not.
    """

    def __init__(self, folder: SweepFolder, sweep: Sweep) -> None:
        self._folder, self._sweep = folder, sweep
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "ReportApart":
        return self

    def start(self) -> None:
        """Start writing."""
        command = [sys.executable, "-m", __name__, str(self._folder.path)]
        environment = {**os.environ, **handed_down(self._sweep)}
        if (holder := holder_of(self._folder.path)) is not None:
            environment[LEASE_VARIABLE] = holder
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def finish(self) -> None:
        """Wait until the report is written; start it if need be."""
        if self._process is None:
            self.start()
        assert self._process is not None
        said, _ = self._process.communicate()
        for line in said.splitlines():
            _LOG.warning("%s", line)
        if code := self._process.returncode:
            _LOG.warning("no report on %s: its process ended with %d", self._folder.path, code)

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _write(directory: str) -> None:
    from gallop_ray.reporting.masks import write_mask_report

    stored = open_sweep(directory)
    folder, sweep = stored.folder, stored.sweep
    borrow(folder.path)
    _attempt(f"report on the masks of {folder.path}", partial(write_mask_report, folder, sweep.objective))
    for name in MASK_REPORT:
        _attempt(f"{name} in the bucket", partial(push, folder.path / name))
    _attempt(f"report on {folder.path}", partial(report, folder, sweep))


def _attempt(what: str, write: Callable[[], object]) -> None:
    """Write, or warn: a finished sweep does not fail for a page or a picture."""
    try:
        write()
    except Exception as error:
        _LOG.warning("no %s (%s: %s)", what, type(error).__name__, error)


if __name__ == "__main__":
    logging.getLogger("gallop_ray").addHandler(logging.StreamHandler(sys.stdout))  # the sweep's process repeats it
    _write(sys.argv[1])
