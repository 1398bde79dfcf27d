"""The output of `gallop-ray status`: the status of a sweep, once or repeatedly."""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gallop_ray.analysis.status import Best, MethodStatus, Running, StatusReader, SweepStatus, counted
from gallop_ray.disk.bucket.tree import pull, tree_of
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.stored import open_sweep
from gallop_ray.reporting.progress import spoken_left, where
from gallop_ray.spec.metrics import shown_value, unit_of

_COUNTS = {"total": "Total", "finished": "Finished", "running": "Active", "pruned": "Pruned", "failed": "Failed",
           "to_do": "Remaining"}  # fmt: skip
"""What is counted, by its name in the records, and its heading."""
_FOLLOW_SECONDS = 2.0
_BUCKET_SECONDS = 10.0  # requests cost money


def print_status(directory: str, as_json: bool, follow: bool) -> None:
    """Print the status of a sweep, once or until it is over."""
    stored = open_sweep(directory)
    reader = StatusReader(stored.folder, stored.sweep)
    status = reader.look()
    if as_json:
        print(json.dumps(asdict(status)), flush=True)
        while follow and status.driver:
            status = _later(stored.folder, reader)
            print(json.dumps(asdict(status)), flush=True)
    elif not follow:
        Console(markup=False).print(render(status))
    elif not Console().is_terminal:
        _print_lines(stored.folder, reader, status)
    else:
        with Live(render(status), auto_refresh=False) as live:
            while status.driver:
                status = _later(stored.folder, reader)
                live.update(render(status), refresh=True)


def _print_lines(folder: SweepFolder, reader: StatusReader, status: SweepStatus) -> None:
    """For a pipe or a file: a line whenever something has changed, and the whole status at the end."""
    shown = ""
    while True:
        if (line := status_line(status)) != shown:
            print(line, flush=True)
            shown = line
        if not status.driver:
            break
        status = _later(folder, reader)
    Console(markup=False).print(render(status))


def _later(folder: SweepFolder, reader: StatusReader) -> SweepStatus:
    """The status a little later; of a sweep in a bucket, brought here before."""
    time.sleep(_FOLLOW_SECONDS if tree_of(folder.path) is None else _BUCKET_SECONDS)
    pull(folder.path)
    return reader.look()


def status_line(status: SweepStatus) -> str:
    """The status in one line."""
    runs = status.runs
    failed = f", {runs.failed} failed" if runs.failed else ""
    parts = [_head(status).plain, f"{runs.finished} of {runs.total} runs finished{failed}"]
    return "; ".join([*parts, *map(_running_line, status.running), *_waiting(status)])


def _waiting(status: SweepStatus) -> Iterable[str]:
    if status.waits_for:
        yield f"waiting: {status.waits_for}"


def render(status: SweepStatus) -> Group:
    """The status as a table and the active runs."""
    return Group(_head(status), _table(status), *map(Text, _lines(status)))


def _head(status: SweepStatus) -> Text:
    parts = [f"{status.name}: {status.state}"]
    if status.driver:
        parts.append(f"pid {status.driver.pid} on {status.driver.host}")
    if status.seconds_left and status.slot_seconds_left is not None:
        slot_hours = f"about {status.slot_seconds_left / 3600:.3g} slot-hours left"
        parts.append(spoken_left(status.seconds_left).removeprefix(", ") if status.driver else slot_hours)
    return Text(", ".join(parts))


def _table(status: SweepStatus) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("Configurations\n  runs")
    for heading in (*_COUNTS.values(), "Best"):
        table.add_column(heading, justify="right")
    rows: list[tuple[str, MethodStatus | SweepStatus]] = list(status.methods.items())
    rows += [("total", status)] * (len(status.methods) > 1)
    for method, each in rows:
        cells = [f"{getattr(each.configurations, name)}\n{getattr(each.runs, name)}" for name in _COUNTS]
        table.add_row(f"{method}\n  runs", *cells, "" if each.best is None else _said(status, each.best))
    return table


def _said(status: SweepStatus, best: Best) -> str:
    if best.objective is None:
        return ""
    return f"{shown_value(status.objective, best.objective)} {unit_of(status.objective)}"


def _lines(status: SweepStatus) -> Iterable[str]:
    yield from _waiting(status)
    for run in status.running:
        yield _running_line(run)
    for half in status.half_done:
        yield f"half-done: {where(half)}"
    for each in status.waiting:
        yield f"waiting: {each.configuration} seed {each.seed} at step {each.checkpoint_step} of {each.steps}"
    for bad in status.failed:
        yield f"{bad.status}: {bad.configuration} seed {bad.seed}: {(bad.reason or '').split(chr(10))[0]}"
    if status.best:
        yield f"best {status.best.configuration}: {status.objective} {_said(status, status.best)}"
    yield from (f"{found.kind}: {found.text}" for found in status.diagnoses)


def _running_line(run: Running) -> str:
    line = f"{run.slot}: {run.configuration} seed {run.seed} {run.phase}"
    if run.total:
        line += f", {counted(run.done, run.total, run.what)}{spoken_left(run.phase_seconds_left)}"
    elif run.steps:
        line += f", step {run.step}/{run.steps}"
    if run.loss is not None:
        line += f", loss {run.loss:.4g}"
    return f"{line}, {run.seconds_since_event:.0f} s ago"
