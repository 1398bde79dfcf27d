"""Commands on a sweep's folder from outside: pause, stop, resume, retry. Needs neither Ray nor torch."""

from collections.abc import Iterable, Sequence

from gallop_ray.disk.bucket.address import address_of, is_bucket, placed
from gallop_ray.disk.regular import remove
from gallop_ray.records import control
from gallop_ray.records.folders import ConfigurationFolder, SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.records.stored import open_sweep


def pause(directory: str) -> str:
    """Ask the driver to start no more runs; returns what to tell the user."""
    folder = _running(directory, "pause")
    if control.asked(folder) in ("stop", "stop now"):
        raise ValueError(f"{address_of(folder.path)} is stopping already")
    control.ask(folder, "pause")
    where = address_of(folder.path)
    return f"{where} pauses once its active runs have finished; `gallop-ray resume {directory}` continues it"


def stop(directory: str, now: bool) -> str:
    """Ask the driver to stop, at once or after the active runs; returns what to tell the user."""
    folder = _running(directory, "stop")
    control.ask(folder, "stop now" if now else "stop")
    first = "stops now, checkpoints are kept" if now else "stops once its active runs have finished"
    return f"{address_of(folder.path)} {first}; `gallop-ray resume {directory}` resumes it"


def resume_paused(directory: str) -> str | None:
    """Resume a paused sweep; None where no driver runs it, so that one has to be started."""
    folder = open_sweep(directory).folder
    if control.driver(folder) is None:
        return None
    if control.asked(folder) != "pause":
        state = "is running" if control.asked(folder) is None else "is stopping; resume it when it has ended"
        raise ValueError(f"{address_of(folder.path)} {state}; see `gallop-ray status {directory}`")
    control.ask(folder, None)
    return f"{address_of(folder.path)} resumes"


def _running(directory: str, what: str) -> SweepFolder:
    folder = open_sweep(directory).folder
    if control.driver(folder) is None:
        raise ValueError(f"{address_of(folder.path)} is not running: there is nothing to {what}")
    return folder


def retry(directory: str, failed: bool, names: Sequence[str]) -> str:
    """Queue failed and diverged runs for another try; returns what to tell the user.

    names: configurations (`gallop-1a2b3c4d`) or runs (`gallop-1a2b3c4d/seed-0`); `failed` takes all.
    """
    folder = open_sweep(directory).folder
    if failed == bool(names):
        raise ValueError("say what to retry: either --failed, or configurations and runs by name")
    if is_bucket(directory):
        folder = SweepFolder(placed(directory))  # written under the sweep's lease, as by a driver
    with control.alone(folder):
        runs = _bad(folder.runs()) if failed else [run for name in names for run in _named(folder, name)]
        for key in {run.configuration for run in runs}:
            reopen(folder.configuration(key))
        for run in runs:
            _forget(run)
        folder.rebuild_results()
    listed = "".join(f"\n  {run.configuration} seed {run.seed}" for run in runs)
    return f"{len(runs)} run{'s' * (len(runs) != 1)} queued for retry{listed}" + (
        f"\n`gallop-ray resume {directory}` runs them" * bool(runs)
    )


def _bad(runs: Iterable[RunFolder]) -> list[RunFolder]:
    return [run for run in runs if (result := run.result()) and result.failed]


def _named(folder: SweepFolder, name: str) -> list[RunFolder]:
    key, _, seed = name.strip("/").partition("/")
    configuration = folder.configuration(key)
    if not (configuration.path / "configuration.json").exists():
        raise ValueError(
            f"{address_of(folder.path)} has no configuration {key!r}; see `gallop-ray status {address_of(folder.path)}`"
        )
    found = [run for run in _bad(configuration.runs()) if seed in ("", run.path.name)]
    if not found:
        raise ValueError(f"{name} has no run that failed or diverged: only such are retried")
    return found


def _forget(run: RunFolder) -> None:
    """Remove a run's result and checkpoints, which lead to where it failed; events stay, for counting attempts."""
    for part in run.parts():
        remove(part.checkpoint)
    remove(run.path / "result.json")


def reopen(configuration: ConfigurationFolder) -> None:
    """Mark a configuration as running again; its finished seeds still count."""
    status = configuration.status()
    configuration.write_status("running", status.seeds_done, status.objective)
