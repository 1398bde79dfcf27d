"""Compares what a start finds on disk with the records: damage costs a run, never the sweep."""

import shutil

from gallop_ray.disk.bucket.tree import is_there
from gallop_ray.disk.damage import Damaged
from gallop_ray.disk.regular import remove
from gallop_ray.disk.tensors import metadata_of
from gallop_ray.disk.whole import remove_drafts
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import RunResult
from gallop_ray.records.run_folder import WITHOUT_CHECKPOINT, RunFolder
from gallop_ray.spec.schema import Sweep
from gallop_ray.sweep.commands import reopen

_SHOWN = 3


def clear_leftovers(folder: SweepFolder) -> None:
    """Remove useless leftovers of earlier starts: drafts of killed writers, and Ray's own folders."""
    shutil.rmtree(folder.path / "ray", ignore_errors=True)
    remove_drafts(folder.path)
    for configuration in folder.configurations():
        remove_drafts(configuration.path)


def recheck(folder: SweepFolder, sweep: Sweep) -> list[str]:
    """Queue again finished runs without a complete adapter, and reopen their configurations; checkpoints of others go.

    Only headers and sizes are checked here; checksums of the contents are verified wherever an adapter is used. What
    `retention` has removed is not missed. Returns lines about what was done.
    """
    lost: list[str] = []
    for run in folder.runs():
        if (result := run.result()) is None:
            continue
        if result.finished and (reason := _lacks(run, result, sweep)):
            remove(run.path / "result.json")
            lost.append(f"{run.configuration} seed {run.seed} ({reason})")
        elif result.status in WITHOUT_CHECKPOINT:
            for part in run.parts():
                if is_there(part.checkpoint):  # a kill came after the result, and before this
                    remove(part.checkpoint)
    for configuration in folder.configurations():
        status = configuration.status()
        over = {result.seed for result in configuration.results()}
        if status.over and not set(status.seeds_done) <= over:
            reopen(configuration)
    if not lost:
        return []
    more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
    return [f"finished runs without a whole adapter are run again: {', '.join(lost[:_SHOWN])}{more}"]


def _lacks(run: RunFolder, result: RunResult, sweep: Sweep) -> str | None:
    """What is wrong with a finished run's adapters; None for nothing, or where it needs none."""
    if not result.trained_parameters:
        return None
    for part in run.parts():
        if not part.adapter.exists() and is_there(part.adapter):
            continue  # in the bucket, which takes files as a whole only
        try:
            metadata_of(part.adapter)
        except FileNotFoundError:
            # Versions that left no note of it removed adapters, too.
            if sweep.retention.adapters == "all" and not part.stripped:
                return f"{part.adapter} is missing"
        except Damaged as error:
            return f"{part.adapter} {error.reason}"
    return None
