"""One sweep from start to end, or from where an earlier start left it."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune

from gallop_ray.reporting.masks import write_mask_report
from gallop_ray.reporting.progress import SweepDisplay
from gallop_ray.reporting.status import SweepStatus, found_line, opened
from gallop_ray.spec.compare import differences
from gallop_ray.spec.plan import plan_sweep
from gallop_ray.spec.schema import Sweep
from gallop_ray.sweep.cluster import connect, count_slots
from gallop_ray.sweep.commands import reopen
from gallop_ray.sweep.ending import ending_when_told
from gallop_ray.sweep.jobs import BaseJob
from gallop_ray.sweep.pool import SlotPool
from gallop_ray.sweep.searcher import StudySearcher
from gallop_ray.sweep.study import Studies
from gallop_ray.sweep.trial import CPUS, ConfigurationTrial, TrialContext
from gallop_ray.tracking import control
from gallop_ray.tracking.mirror import MlflowMirror
from gallop_ray.tracking.mlflow_store import tracking_uri
from gallop_ray.tracking.records import SweepFolder

_LOG = logging.getLogger(__name__)


class UserError(ValueError):
    """The sweep cannot run as it was asked for; the message says what to change."""


def located(sweep: Sweep) -> Sweep:
    """The sweep with its folders as absolute paths, which mean the same to every process.

    A submitted job runs in a copy of the working directory that Ray deletes some day; there a relative output is
    taken from ~/gallop_ray instead.
    """
    start = Path.cwd()
    if "runtime_resources" in start.parts:
        start = Path.home() / "gallop_ray"
    output = str((start / Path(sweep.output).expanduser()).resolve())
    model = sweep.model.model_copy(update={"name": _absolute_folder(sweep.model.name)})
    data = sweep.data.model_copy(update={"root": _absolute_folder(sweep.data.root)})
    return sweep.model_copy(update={"output": output, "model": model, "data": data})


def _absolute_folder(name: str) -> str:
    """Absolute where it is a folder; hub ids, presets and keywords as they are."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def run_sweep(sweep: Sweep, verbose: bool = False) -> SweepFolder:
    """Run what is not yet done of a located sweep. Raises UserError for what the user has to mend."""
    folder = SweepFolder(Path(sweep.output) / sweep.name)
    with ExitStack() as stack:
        stack.enter_context(control.alone(folder))
        _remember(folder, sweep)
        control.begin(folder)
        stack.enter_context(ending_when_told(folder))
        folder.rebuild_results()
        found = found_line(SweepStatus(folder, sweep).look())
        studies = Studies(sweep, folder)
        planned = {method.method: method.runs for method in plan_sweep(sweep, None).methods}
        display = stack.enter_context(SweepDisplay(folder, planned, sweep.objective))
        mirror = stack.enter_context(_mirrored(folder, sweep, studies))
        display.note(f"{sweep.name}: records in {folder.path}{found and f'; {found}'}")
        if not studies.exhausted:
            with _slots(sweep, folder, verbose, display.note) as pool, _told_first(mirror):
                _measure_base(pool, sweep, folder, display.note)
                _search(sweep, folder, studies, pool)
            folder.rebuild_results()
        _report_masks(folder, sweep)
    return folder


def _remember(folder: SweepFolder, sweep: Sweep) -> None:
    """Store the spec, or hold it against the one that this folder was begun with."""
    if folder.exists():
        _, stored = opened(str(folder.path))
        if differing := differences(stored, sweep):
            raise UserError(
                f"{folder.path} was begun with another sweep:\n  " + "\n  ".join(differing) + "\n"
                "give this one another name, or remove the folder"
            )
    folder.create(json.loads(sweep.model_dump_json()))
    _reopen_incomplete(folder, sweep)


def _reopen_incomplete(folder: SweepFolder, sweep: Sweep) -> None:
    """What finished with fewer seeds than there are now is to do; what was pruned or failed has been given up."""
    for configuration in folder.configurations():
        status = configuration.status()
        if status["status"] == "finished" and not set(sweep.seeds) <= set(status["seeds_done"]):
            reopen(configuration)


@contextmanager
def _mirrored(folder: SweepFolder, sweep: Sweep, studies: Studies) -> Iterator[MlflowMirror]:
    mirror = MlflowMirror(folder, sweep, tracking_uri(sweep))
    mirror.start()
    try:
        yield mirror
    except BaseException:
        mirror.stop(timeout=2, finished=False)
        raise
    mirror.stop(finished=studies.exhausted)


@contextmanager
def _told_first(mirror: MlflowMirror) -> Iterator[None]:
    """MLflow hears of an early end before Ray is shut down: of the three seconds that are left, that takes most."""
    try:
        yield
    except KeyboardInterrupt:
        mirror.stop(timeout=2, finished=False, now=True)
        raise


@contextmanager
def _slots(sweep: Sweep, folder: SweepFolder, verbose: bool, note: Callable[[str], None]) -> Iterator[Any]:
    connect(verbose)
    try:
        try:
            slots = count_slots(sweep.resources)
        except ValueError as error:
            raise UserError(str(error)) from None
        control.note_slots(folder, slots)
        workers = sweep.resources.workers_per_slot
        note(f"starting {slots} slot{'s' * (slots > 1)} of {workers} worker{'s' * (workers > 1)}")
        pool = SlotPool.remote(slots, sweep.model_dump_json(), str(folder.path))
        try:
            yield pool
        except KeyboardInterrupt:
            raise  # there is no time; slots end with the job
        except BaseException:
            _stop(pool)
            raise
        _stop(pool)
    finally:
        ray.shutdown()


def _stop(pool: Any) -> None:
    with suppress(ray.exceptions.RayError):  # what is left of the slots ends with the job
        ray.get(pool.stop.remote(), timeout=20)


def _measure_base(pool: Any, sweep: Sweep, folder: SweepFolder, note: Callable[[str], None]) -> None:
    """Check the sweep against the model, and measure the base model unless an earlier start has."""
    note(f"loading {sweep.model.name}: the first time it is downloaded or made, which can take some minutes")
    lease, refused = pool.lease.remote(), pool.refused.remote()
    done, _ = ray.wait([lease, refused], num_returns=1)
    if refused in done:
        raise UserError(ray.get(refused))
    name, slot = ray.get(lease)
    if folder.base() is None:
        note("measuring the base model")
        outcome = ray.get(slot.execute.remote(BaseJob()))
        if outcome.status != "finished":
            raise UserError(str(outcome.reason))
        folder.write_base(outcome.result)
    ray.get(pool.give_back.remote(name, True))


def _report_masks(folder: SweepFolder, sweep: Sweep) -> None:
    """A sweep that has come so far does not fail for a picture."""
    try:
        write_mask_report(folder, sweep.objective)
    except Exception as error:
        _LOG.warning("no report on the masks of %s (%s: %s)", folder.path, type(error).__name__, error)


def _search(sweep: Sweep, folder: SweepFolder, studies: Studies, pool: Any) -> None:
    deadline = time.time() + 3600 * sweep.budget.hours if sweep.budget.hours else None
    context = TrialContext(sweep.model_dump_json(), folder.path, pool, deadline)
    trainable = tune.with_resources(tune.with_parameters(ConfigurationTrial, context=context), {"CPU": CPUS})
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(studies, deadline),
            num_samples=-1,
            max_concurrent_trials=count_slots(sweep.resources),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name=f"tune-{int(time.time())}", storage_path=str(folder.path / "ray"), verbose=0),
    )
    tuner.fit()
