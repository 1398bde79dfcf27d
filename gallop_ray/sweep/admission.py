"""Whether another run may start: no stop is requested, the deadline is far enough, and there is disk space."""

import os
import time
from pathlib import Path
from statistics import fmean

from gallop_ray.analysis.live import SweepState
from gallop_ray.analysis.ranking import worth_keeping
from gallop_ray.records import control
from gallop_ray.records.folders import ConfigurationFolder, SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.spec.machine import RetentionSpec
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.search import ObjectiveSpec


class Admission:
    """Refuses runs once the sweep is stopping, and those that would not finish by the deadline; waits out a pause."""

    def __init__(self, folder: SweepFolder, objective: ObjectiveSpec, deadline: float | None) -> None:
        self._folder, self._deadline = folder, deadline
        self._state = SweepState(folder, (), objective)

    def may_start(self, configuration: ConfigurationFolder, share: float = 1.0) -> bool:
        """Whether the next run of this configuration may start now. Blocks while the sweep is paused.

        share: of a run, which is all that is wanted of it now.
        """
        while (asked := control.asked(self._folder)) == "pause":
            time.sleep(control.LOOK_SECONDS)
        if asked is not None or self._deadline is None:
            return asked is None
        return time.time() + share * self._seconds(configuration) < self._deadline

    def _seconds(self, configuration: ConfigurationFolder) -> float:
        """A run's expected duration, from the configuration's runs, else its method's; 0 where nothing is known."""
        own = [result.total_seconds for result in configuration.results()]
        if known := [each for each in own if each is not None]:
            return fmean(known)
        self._state.look()
        return self._state.run_seconds().of(configuration.method_name()) or 0.0


_VALUE_BYTES = 4
_RUNS_AHEAD = 5  # no warning while there is space for this many more runs


def free_bytes(folder: SweepFolder, retention: RetentionSpec) -> float:
    """What the sweep may still write: what the disk has free, or what is left of `retention.disk_gb`."""
    found = os.statvfs(folder.path)
    free = float(found.f_bavail * found.f_frsize)
    if retention.disk_gb is None:
        return free
    return min(free, retention.disk_gb * 1e9 - _used(folder.path))


def files_left(folder: SweepFolder) -> bool:
    """Whether the disk has free inodes."""
    found = os.statvfs(folder.path)
    # Some file systems (btrfs) report 0 inodes in total.
    return found.f_files == 0 or found.f_favail > 0


def _used(folder: Path) -> int:
    return sum(_size(Path(path) / name) for path, _, names in os.walk(folder) for name in names)


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except FileNotFoundError:  # drafts, checkpoints and adapters vanish while other processes work
        return 0


def needed_bytes(run: RunFolder) -> float:
    """What a run like this one needs at most: its adapters and two checkpoints, the new one beside the old.

    A checkpoint holds each trained value and its two moments in float32, and with a mask the indices.
    """
    adapters = [part.adapter.stat().st_size for part in run.parts() if part.adapter.exists()]
    result = run.result()
    trained = (result.trained_parameters if result else None) or 0
    indices = max(0, max(adapters, default=0) - _VALUE_BYTES * trained)
    checkpoint: float = 3 * _VALUE_BYTES * trained + indices if result else 0
    if result is None and run.checkpoint.exists():  # it is paused
        checkpoint = run.checkpoint.stat().st_size
    return sum(adapters) + 2 * checkpoint


def shortage(free: float, needed: float) -> str | None:
    """A warning where the next runs may fill the disk. needed: bytes of one run."""
    if free > _RUNS_AHEAD * needed:
        return None
    return f"the disk is almost full: {described(free)} are free, a run needs up to {described(needed)}"


def described(size: float) -> str:
    """Bytes for a message."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def keep_best(folder: SweepFolder, sweep: Sweep, stripped: set[str]) -> None:
    """Remove the adapters of configurations that are over, except those that are best so far or on a Pareto front.

    Best of each method: in the search, which may yet confirm them, and by the runs on fresh seeds.

    stripped: keys of configurations whose adapters are removed already; updated.
    """
    results = folder.listed()
    count = sweep.confirmation.best if sweep.confirmation else 1
    kept = worth_keeping(results, sweep.objective, count)
    for key in {result.configuration for result in results} - kept - stripped:
        configuration = folder.configuration(key)
        if configuration.status().over:
            for part in (part for run in configuration.runs() for part in run.parts()):
                part.strip()
            stripped.add(key)
