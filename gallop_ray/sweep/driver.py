"""One sweep from start to end, or from where an earlier start left off."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune

from gallop_ray.analysis.ranking import best_of_search
from gallop_ray.analysis.status import StatusReader
from gallop_ray.compat.tune import DroppingScheduler, QuietProgress
from gallop_ray.disk.bucket.address import address_of, copies, is_bucket, placed
from gallop_ray.disk.bucket.tree import push
from gallop_ray.disk.trouble import described_trouble, is_storage_trouble
from gallop_ray.errors import Halted, UserError
from gallop_ray.mlflow_mirror.mirror import MlflowMirror
from gallop_ray.mlflow_mirror.store import tracking_uri
from gallop_ray.preflight.data_checks import refuse_unusable
from gallop_ray.records import control
from gallop_ray.records.code import keep_code, use_code
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.own_metrics import keep_metrics
from gallop_ray.records.results import CONFIRMATION, SEARCH
from gallop_ray.records.scores import drop_sums
from gallop_ray.records.source import note_source
from gallop_ray.records.stored import open_sweep
from gallop_ray.reporting.progress import SweepDisplay, found_line
from gallop_ray.reporting.terminal import Terminal
from gallop_ray.search.study import Studies
from gallop_ray.slots.cluster import beside_driver
from gallop_ray.slots.pool import Room, entrusted
from gallop_ray.spec.checks import verify
from gallop_ray.spec.compare import differences
from gallop_ray.spec.harness import is_task_file
from gallop_ray.spec.plan import plan_sweep
from gallop_ray.spec.rungs import climbs
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.secrets import lacks_secrets, without_secrets
from gallop_ray.spec.tasks import TaskSpec, is_local
from gallop_ray.sweep.base import prepare
from gallop_ray.sweep.commands import reopen
from gallop_ray.sweep.ladder import Ladder
from gallop_ray.sweep.recheck import clear_leftovers, recheck
from gallop_ray.sweep.report import ReportApart
from gallop_ray.sweep.searcher import SlotSearcher
from gallop_ray.sweep.slot_pool import gone, slot_pool
from gallop_ray.sweep.stop import Watch, raise_on_termination, refused_by_storage
from gallop_ray.sweep.trial import ConfigurationTrial, TrialContext


def located(sweep: Sweep) -> Sweep:
    """The sweep with absolute paths, which mean the same to every process; a bucket's address is one.

    A submitted job runs in a copy of the working directory that Ray deletes eventually; there a relative output is
    below ~/gallop_ray instead.
    """
    start = Path.cwd()
    if "runtime_resources" in start.parts:
        start = Path.home() / "gallop_ray"
    output = sweep.output if is_bucket(sweep.output) else str((start / Path(sweep.output).expanduser()).resolve())
    delta = sweep.model.delta and _absolute(sweep.model.delta)
    model = sweep.model.model_copy(update={"name": _absolute_folder(sweep.model.name), "delta": delta})
    tasks = {name: _located_task(task) for name, task in sweep.data.tasks.items()}
    data = sweep.data.model_copy(update={"root": _absolute_folder(sweep.data.root), "tasks": tasks})
    evaluation = sweep.evaluation.model_copy(update={"text": _absolute_file(sweep.evaluation.text)})
    earlier = tuple(map(_absolute, sweep.search.warm_start))
    storage = _absolute_database(sweep.search.storage, start)
    search = sweep.search.model_copy(update={"storage": storage, "warm_start": earlier})
    parts = {"model": model, "data": data, "evaluation": evaluation, "search": search}
    return sweep.model_copy(update={"output": output, **parts})


def _absolute(place: str) -> str:
    """Absolute for a path, whether or not anything is there."""
    return place if is_bucket(place) else str(Path(place).expanduser().resolve())


def _absolute_folder(name: str) -> str:
    """Absolute for a folder; hub ids, presets and keywords unchanged."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def _located_task(task: TaskSpec) -> TaskSpec:
    """With absolute paths of files, folders and globs."""
    splits = {
        ours: _absolute_path(theirs) if isinstance(theirs, str) else theirs for ours, theirs in task.splits.items()
    }
    source = None if task.source is None else _absolute_path(task.source)
    harness = task.harness
    if harness is not None and is_task_file(harness):
        harness = str(Path(harness).absolute())
    return task.model_copy(update={"source": source, "splits": splits, "harness": harness})


def _absolute_path(text: str) -> str:
    return str(Path(text).expanduser().absolute()) if is_local(text) and not is_bucket(text) else text


def _absolute_file(name: str | None) -> str | None:
    return _absolute(name) if name is not None and name.endswith(".jsonl") else name


def _absolute_database(url: str | None, start: Path) -> str | None:
    """With an absolute path for an SQLite file (four slashes); other databases unchanged."""
    scheme, separator, path = (url or "").partition(":///")
    if not separator or not scheme.startswith("sqlite") or not path or path.startswith(("/", ":", "file:")):
        return url
    return f"{scheme}:///{(start / path).resolve()}"


def run_sweep(
    sweep: Sweep, verbose: bool = False, file: str | Path | None = None, terminal: Terminal | None = None
) -> SweepFolder:
    """Run what remains of a sweep with absolute paths.

    file: where it was read from; `resume` takes the passwords from there, which no record holds.
    terminal: where to show progress; the standard streams by default.

    Raises UserError for user mistakes, SweepFileError for a sweep that breaks a rule, and Halted for any other early
    stop.
    """
    if file is None:
        use_code(SweepFolder(placed(f"{sweep.output}/{sweep.name}", "view")))
    sweep = verify(sweep)
    if is_bucket(sweep.output):  # from here on a folder, whose files go to the bucket
        sweep = sweep.model_copy(update={"output": str(copies(sweep.output, "work"))})
    folder = SweepFolder(Path(sweep.output) / sweep.name)
    if lacks_secrets(sweep):
        raise UserError(
            f"{address_of(folder.path)} keeps no passwords of tracking.uri and search.storage, and the sweep file that "
            "has them was not found; run `gallop-ray run SWEEP_FILE`"
        )
    try:
        _run_sweep(sweep, folder, verbose, file, terminal)
    except Halted as halt:
        if halt.mistake:
            raise UserError(str(halt)) from None
        raise
    except Exception as error:
        if (reason := gone()) is not None:  # first: without its processes Ray raises errors of any class
            raise reason from error
        if is_storage_trouble(error) and not isinstance(error, UserError):
            raise refused_by_storage(folder, sweep.retention, 0, error) from error
        if isinstance(error, ray.exceptions.RayError):
            raise Halted(_cause(error)) from error
        raise
    return folder


@contextmanager
def _before_anything() -> Iterator[None]:
    """Turn errors of the storage into UserError: nothing has been spent yet."""
    try:
        yield
    except OSError as error:
        raise UserError(described_trouble(error)) from error


def _cause(error: Exception) -> str:
    """One line from Ray's many: which actor has died, or the first sentence of the last line."""
    if actor := re.search(r"class_name: (\w+)", str(error)):
        return f"a process of the sweep has died, that of {actor[1]}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"a process of Ray has ended ({lines[-1].partition('. ')[0]})"


def _run_sweep(
    sweep: Sweep, folder: SweepFolder, verbose: bool, file: str | Path | None, terminal: Terminal | None
) -> None:
    with ExitStack() as stack:
        with _before_anything():
            # First of all: what follows reads and repairs records, and must be the only one to do so.
            stack.enter_context(control.alone(folder))
            _remember(folder, sweep)
            note_source(folder, sweep, file)
            changed = keep_code(folder, sweep)
            push(folder.path / "code")
            keep_metrics(folder, sweep)
            control.begin(folder)
            found_wrong = [*changed, *recheck(folder, sweep)]
            clear_leftovers(folder)
        end = stack.enter_context(raise_on_termination(folder))
        control.when_taken_over(folder, end)
        # The run folders are the truth: results, studies and MLflow are rebuilt from them at every start.
        folder.rebuild_results()
        found = found_line(StatusReader(folder, sweep).look())
        studies = Studies(sweep, folder)
        plans = plan_sweep(sweep, None).methods
        display = stack.enter_context(SweepDisplay(folder, plans, sweep.objective, terminal=terminal))
        mirror = stack.enter_context(_mirrored(folder, sweep, studies, file))
        page = stack.enter_context(ReportApart(folder, sweep))
        display.note(f"{sweep.name}: records in {address_of(folder.path)}{found and f'; {found}'}")
        for line in found_wrong:
            display.note(line)
        if not _complete(sweep, folder, studies):
            refuse_unusable(sweep)
            with slot_pool(sweep, folder, verbose, display.note, end) as pool, _told_first(mirror):
                base = prepare(pool, sweep, folder, display.note)
                _search(sweep, folder, studies, pool, Watch(base, display.note), display.note)
                page.start()  # while the slots end
            folder.rebuild_results()
        if _complete(sweep, folder, studies):
            drop_sums(folder)
        page.finish()


def _remember(folder: SweepFolder, sweep: Sweep) -> None:
    """Store the spec, or compare it with the one that this folder was started with. Raises UserError."""
    if folder.exists():
        stored = open_sweep(folder.path).whole()
        if differing := differences(stored, sweep):
            raise UserError(
                f"{address_of(folder.path)} was begun with another sweep:\n  " + "\n  ".join(differing) + "\n"
                "repeat its file and --set to continue it; else give this one another name (--set name=...), or remove "
                "the folder"
            )
        _refuse_confirmed(folder, set(sweep.seeds) - set(stored.seeds))
    kept = without_secrets(sweep).model_copy(update={"output": address_of(folder.path.parent)})
    folder.create(json.loads(kept.model_dump_json()))
    _reopen_incomplete(folder, sweep)


def _refuse_confirmed(folder: SweepFolder, new: set[int]) -> None:
    """Raises UserError for new seeds with which a confirmation has run: only the confirmed would have them already."""
    ended = [run.result() for each in folder.configurations() for run in each.runs() if new and run.seed in new]
    if taken := sorted(each.seed for each in ended if each and each.stage == CONFIRMATION):
        raise UserError(f"seeds: a confirmation has run with {taken[0]}, so that the search cannot; give other seeds")


def _reopen_incomplete(folder: SweepFolder, sweep: Sweep) -> None:
    """Reopen what finished with fewer seeds than there are now; what was pruned or failed stays over."""
    for configuration in folder.configurations():
        status = configuration.status()
        if status.status == "finished" and not set(sweep.seeds) <= set(status.seeds_done):
            reopen(configuration)


def _complete(sweep: Sweep, folder: SweepFolder, studies: Studies) -> bool:
    return _searched(folder, studies) and not unconfirmed(sweep, folder)


def _searched(folder: SweepFolder, studies: Studies) -> bool:
    """Whether all configurations were handed out and are over; a trial may have died, or stopped early."""
    return studies.exhausted and not folder.unfinished()


@contextmanager
def _mirrored(folder: SweepFolder, sweep: Sweep, studies: Studies, file: str | Path | None) -> Iterator[MlflowMirror]:
    mirror = MlflowMirror(folder, sweep, tracking_uri(sweep), file)
    mirror.start()
    try:
        yield mirror
    except BaseException as error:
        # 2 of the 3 s between SIGTERM and SIGKILL.
        mirror.stop(timeout=2, finished=False, now=isinstance(error, KeyboardInterrupt), early=True)
        raise
    mirror.stop(finished=_complete(sweep, folder, studies))


@contextmanager
def _told_first(mirror: MlflowMirror) -> Iterator[None]:
    """Notify MLflow of an early end before Ray is shut down, which uses most of the 3 s grace period."""
    try:
        yield
    except KeyboardInterrupt:
        mirror.stop(timeout=2, finished=False, now=True, early=True)
        raise


def _search(
    sweep: Sweep, folder: SweepFolder, studies: Studies, pool: Any, watch: Watch, note: Callable[[str], None]
) -> None:
    deadline = time.time() + 3600 * sweep.budget.hours if sweep.budget.hours else None
    again, room = sweep.confirmation, Room(pool)
    spare = again.best * len(sweep.methods) if again else 0
    if climbs(sweep):
        ladder = Ladder(sweep, folder, studies, room.slots)
        searcher = SlotSearcher(SEARCH, ladder.take, ladder.told, room, deadline, spare, ladder.rung, ladder.more)
    else:
        searcher = SlotSearcher(SEARCH, studies.next, studies.tell, room, deadline, spare)
    _tune(sweep, folder, pool, searcher, deadline, watch)
    if _searched(folder, studies) and (keys := unconfirmed(sweep, folder)):
        note(f"running {', '.join(keys)} again on fresh seeds")
        left = iter(keys)
        searcher = SlotSearcher(CONFIRMATION, lambda: next(left, None), lambda key: True, room, deadline)
        _tune(sweep, folder, pool, searcher, deadline, watch)


def unconfirmed(sweep: Sweep, folder: SweepFolder) -> list[str]:
    """The best configurations of each method that have not run on all confirmation seeds yet."""
    if sweep.confirmation is None:
        return []
    found = best_of_search(folder.results(), sweep.objective, sweep.confirmation.best)
    keys = [each.configuration for each in found]
    return [key for key in keys if not all(folder.run(key, seed).result() for seed in sweep.confirmation.seeds)]


def _tune(
    sweep: Sweep,
    folder: SweepFolder,
    pool: Any,
    searcher: SlotSearcher,
    deadline: float | None,
    watch: Watch,
) -> None:
    context = TrialContext(
        without_secrets(sweep).model_dump_json(), folder.path, pool, deadline, entrusted(address_of(folder.path), sweep)
    )
    # Trials only wait. With a CPU each, they would leave none for the workers and deadlock; on the driver's node they
    # live exactly as long as it does.
    trainable = tune.with_resources(tune.with_parameters(ConfigurationTrial, context=context), beside_driver())
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=DroppingScheduler(),  # type: ignore[no-untyped-call]
            num_samples=-1,  # the searcher says when there are no more
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{int(time.time())}",  # a fresh one each start: Tuner.restore is never used
            storage_path=str(folder.path / "ray"),
            verbose=0,
            callbacks=[watch, QuietProgress()],
        ),
    )
    watch.fit(tuner)
