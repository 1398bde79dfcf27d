"""The progress of a running sweep: a display that updates itself; without a terminal, plain lines."""

import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gallop_ray.analysis.live import ActiveRun, SweepState
from gallop_ray.analysis.status import HalfDone, SweepStatus, counted
from gallop_ray.disk.trouble import described_trouble
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import RunResult
from gallop_ray.reporting.terminal import Terminal
from gallop_ray.spec.metrics import shown_value, unit_of
from gallop_ray.spec.plan import MethodPlan
from gallop_ray.spec.search import ObjectiveSpec

_LOOK_SECONDS = 1.0
_LINE_SECONDS = 30.0
_BAR_WIDTH = 40


class SweepDisplay:
    """Shows a sweep's progress from its folder, in its own thread, between `start` and `stop`.

    Args:
        folder: the sweep's records, with spec.json.
        planned: the work of each method, if no configuration is stopped early.
        objective: the search's objective.
        console: where to show it; the terminal's output by default.
        terminal: where else to print; the standard streams by default.
    """

    def __init__(
        self,
        folder: SweepFolder,
        planned: Sequence[MethodPlan],
        objective: ObjectiveSpec,
        console: Console | None = None,
        terminal: Terminal | None = None,
    ) -> None:
        self._terminal = terminal or Terminal()
        self._console = console or Console(file=terminal.out if terminal else None, markup=False)
        self._state = SweepState(folder, planned, objective)
        self._live: Live | None = None
        self._next_line = 0.0
        self._trouble = ""
        self._stop = threading.Event()
        # A daemon, because a network disk that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._show, name="sweep-display", daemon=True)

    def start(self) -> None:
        """Start displaying; runs that ended before are counted, not listed."""
        self._state.look()
        if self._console.is_terminal:
            here = self._console.file is sys.stdout
            self._live = Live(
                render(self._state),
                console=self._console,
                auto_refresh=False,
                redirect_stdout=here,
                redirect_stderr=here,
            )
            self._live.start()
            self._terminal.above = self.note
        self._next_line = time.monotonic() + _LINE_SECONDS
        self._thread.start()

    def stop(self) -> None:
        """Show the last state and end."""
        self._stop.set()
        self._thread.join()
        try:
            self._look()
        except (OSError, ValueError) as error:
            self._note_once(error)
        if self._live:
            self._terminal.above = None
            self._live.stop()
        else:
            self.note(status_line(self._state))

    def note(self, message: str) -> None:
        """Print a line above the display."""
        self._console.print(Text(message), soft_wrap=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _show(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            try:
                self._look()
            except (OSError, ValueError) as error:
                # A network disk's hiccup, or a damaged record, must not end the display: the next look tries again.
                self._note_once(error)

    def _note_once(self, error: Exception) -> None:
        if self._trouble != str(error):
            self._trouble = str(error)
            self.note(f"the display cannot read all of the sweep: {described_trouble(error)}")

    def _look(self) -> None:
        for result in self._state.look():
            self.note(result_line(result, self._state.objective))
        if self._live:
            self._live.update(render(self._state), refresh=True)
        elif time.monotonic() >= self._next_line:
            self.note(status_line(self._state))
            self._next_line = time.monotonic() + _LINE_SECONDS


def result_line(result: RunResult, objective: ObjectiveSpec) -> str:
    """One line about a run that ended."""
    seconds = result.total_seconds
    took = "" if seconds is None else f" after {seconds:.0f} s"
    head = f"{result.configuration} seed {result.seed} {result.status}{took}"
    if not result.finished:
        return f"{head}: {(result.reason or 'no reason known').splitlines()[0]}"
    value = result.value(objective.metric)
    return head if value is None else f"{head}: {_percent(objective, value)}"


def status_line(state: SweepState) -> str:
    """The state in one line."""
    parts = [_counts(state), _time_left(state), _best(state)]
    running = "; ".join(_run_line(run) for run in state.active)
    return ", ".join(filter(None, parts)) + (f"; now {running}" if running else _waiting(state))


def _waiting(state: SweepState) -> str:
    """What is measured before the first run can begin."""
    base = state.base_progress()
    return "" if base is None else f"; measuring the base model, {counted(base.done, base.total, base.what)}"


def render(state: SweepState) -> Group:
    """The state as a bar, the active runs, and the best so far."""
    head = Table.grid(padding=(0, 2, 0, 0))
    bar = ProgressBar(total=max(1, state.runs_expected), completed=state.runs_over, width=_BAR_WIDTH)
    head.add_row(bar, Text(", ".join(filter(None, [_counts(state), _time_left(state)]))))
    lines = [Text(f"  {_run_line(run)}") for run in state.active]
    if not lines and (waiting := _waiting(state)):
        lines = [Text(f"  {waiting.removeprefix('; ')}")]
    best = _best(state)
    return Group(head, *lines, *([Text(best)] if best else []))


def _counts(state: SweepState) -> str:
    beside = {"failed": state.runs_failed, "waiting at rungs": len(state.waiting)}
    said = ", ".join(f"{count} {what}" for what, count in beside.items() if count)
    return (
        f"configurations {state.configurations_over}/{state.total_configurations}, "
        f"runs {state.runs_over}/{state.runs_expected}" + (said and f" ({said})")
    )


def _time_left(state: SweepState) -> str:
    return spoken_left(state.seconds_left() or None).removeprefix(", ")


def spoken_left(seconds: float | None) -> str:
    """`, about 0:12:00 left`; empty where that is unknown."""
    return "" if seconds is None else f", about {timedelta(seconds=round(seconds))} left"


def _best(state: SweepState) -> str:
    found = state.best()
    if not found or found[0].values[0] is None:
        return ""
    return f"best {found[0].configuration}: {_percent(state.objective, found[0].values[0])}"


def _percent(objective: ObjectiveSpec, value: float) -> str:
    return f"{objective.metric} {shown_value(objective.metric, value)} {unit_of(objective.metric)}"


def _run_line(run: ActiveRun) -> str:
    line = f"{run.configuration} seed {run.seed} {run.phase}"
    if run.total:
        return f"{line} {counted(run.done, run.total, run.what)}{spoken_left(run.phase_seconds_left)}"
    if run.phase != "training" or not run.steps:
        return line
    speed = run.steps_per_second
    return f"{line} {run.step}/{run.steps}" + ("" if speed is None else f", {speed:.3g} steps/s")


def found_line(status: SweepStatus) -> str:
    """One line about what a start finds in the folder; empty where nothing has started."""
    runs, half_done = status.runs, status.half_done
    if not (runs.finished or runs.failed or half_done):
        return ""
    parts = [f"{runs.finished} of {runs.total} runs finished"]
    if half_done:
        parts.append(f"{len(half_done)} half-done ({', '.join(map(where, half_done))})")
    parts += [f"{count} {name}" for name, count in (("failed", runs.failed), ("pruned", runs.pruned)) if count]
    return f"found {', '.join(parts)}, {max(0, runs.to_do - len(half_done))} pending"


def where(run: HalfDone) -> str:
    """An interrupted run, and at which step it was."""
    place = f"{run.configuration} seed {run.seed}"
    return place if run.checkpoint_step is None else f"{place} at step {run.checkpoint_step}"
