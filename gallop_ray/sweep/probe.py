"""How long a sweep will take, estimated from a few steps of one run per method, through the ordinary driver."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from rich import box
from rich.console import Console
from rich.table import Table

from gallop_ray.analysis.timing import run_times
from gallop_ray.disk.bucket.address import is_bucket
from gallop_ray.records import control
from gallop_ray.records.events import Step
from gallop_ray.records.results import RunResult
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.spec.data import Limits
from gallop_ray.spec.machine import TrackingSpec
from gallop_ray.spec.plan import MethodPlan, plan_sweep
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.search import BudgetSpec, PruningSpec
from gallop_ray.sweep.driver import run_sweep
from gallop_ray.tasks.load import load_task

_STEPS = 6
_TRAIN_EXAMPLES = 256
_LEFT_OUT = ("training.steps", "training.epochs", "training.validate_steps", "training.keep")
_NOTE = """\
From {steps} steps and some examples of one run per method on this machine. Scoring is scaled by the training examples,
evaluating by the test examples; a searched length counts as its longest. Not included: shared scores, pruning and
failures, and validation during training. Wall time: with {slots}, their start included."""


@dataclass(frozen=True)
class Sizes:
    """How many examples a run trains on, and how many test examples it evaluates, over all rounds."""

    train: int
    test: int


@dataclass(frozen=True)
class RunForecast:
    """Seconds of one run of a method: per step, and in total."""

    step: float
    total: float


def print_probe(sweep: Sweep) -> None:
    """Probe a sweep with absolute paths and print the forecast. Raises ValueError where a method's run fails."""
    if is_bucket(sweep.output):
        raise ValueError("--probe measures into a folder; give one with --set output=/path")
    Path(sweep.output).mkdir(parents=True, exist_ok=True)
    # On the sweep's own storage, which every node sees.
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=sweep.output) as output:
        short = _short(sweep, output)
        folder = run_sweep(short)
        whole, part = _sizes(sweep), _sizes(short)
        epochs = [sweep.data.epoch(count) for count in _train_sizes(sweep)]
        plans = {plan.method: plan for plan in plan_sweep(sweep, epochs).methods}
        runs = {_finished(run).method: run for run in folder.runs()}
        forecasts = {name: forecast(run, plans[name], whole, part) for name, run in runs.items()}
        driver = control.last_driver(folder)
        assert driver is not None
        assert driver.started is not None
        assert driver.slots is not None
        start, slots = min(run.events()[0].time for run in runs.values()) - driver.started, driver.slots
    console = Console(markup=False)
    console.print(_table(sweep, plans, forecasts, start, slots))
    console.print(_NOTE.format(steps=_STEPS, slots=f"{slots} slot{'s' * (slots > 1)}"), soft_wrap=True)


def _short(sweep: Sweep, output: str) -> Sweep:
    """The same sweep with one short run per method, on few examples."""
    few = max(16, sweep.evaluation.batch_size)
    space = {path: values for path, values in sweep.search.space.items() if not path.endswith(_LEFT_OUT)}
    short = {"steps": _STEPS, "validate_steps": None, "keep": "last"}
    first = tuple(point for point in sweep.search.first if point.keys() <= space.keys())
    limits = Limits(
        train=min(sweep.data.limits.train or _TRAIN_EXAMPLES, _TRAIN_EXAMPLES),
        validation=min(sweep.data.limits.validation or few, few),
        test=min(sweep.data.limits.test or few, few),
    )
    return sweep.model_copy(
        update={
            "name": "probe",
            "output": output,
            "seeds": sweep.seeds[:1],
            "data": sweep.data.model_copy(update={"limits": limits}),
            "training": sweep.training.model_copy(update=short),
            "search": sweep.search.model_copy(update={"space": space, "first": first, "storage": None}),
            "budget": BudgetSpec(configurations=1),
            "objective": sweep.objective.model_copy(update={"standard_errors": 0.0}),
            "pruning": PruningSpec(),
            "confirmation": None,
            "tracking": TrackingSpec(uri=f"sqlite:///{output}/mlflow.db"),
        }
    )


def _sizes(sweep: Sweep) -> Sizes:
    tasks, rounds = (*sweep.data.train_tasks, *sweep.data.ood), len(sweep.data.rounds)
    tested = sum(len(load_task(task, sweep.data, ("test",)).test) for task in tasks)
    return Sizes(sum(_train_sizes(sweep)), rounds * tested)


def _train_sizes(sweep: Sweep) -> list[int]:
    return [len(load_task(task, sweep.data, ("train",)).train) for task in sweep.data.train_tasks]


def _finished(run: RunFolder) -> RunResult:
    result = run.result()
    if result is None or not result.finished:
        reason = (result.reason if result else None) or "it did not end"
        raise ValueError(f"the probe of {run.configuration} did not finish: {reason}")
    return result


def forecast(run: RunFolder, plan: MethodPlan, whole: Sizes, part: Sizes) -> RunForecast:
    """The duration of a full run, from the events of a short one on part of the examples."""
    times, events = run_times(run), [event for event in run.events() if isinstance(event, Step)]
    assert times is not None
    # Differences leave out the first step, which warms up. Between two rounds there is more than a step.
    pairs = [(one, other) for one, other in pairwise(events) if one.round == other.round]
    seconds = fmean(other.time - one.time for one, other in pairs) if pairs else 0.0
    phases = dict(times.phases)
    scaled = phases.pop("scoring", 0.0) * whole.train / part.train
    scaled += phases.pop("evaluating", 0.0) * whole.test / part.test
    phases["training"] = (plan.steps_per_run or 0) * seconds
    return RunForecast(seconds, scaled + sum(phases.values()))


def _table(
    sweep: Sweep, plans: Mapping[str, MethodPlan], forecasts: Mapping[str, RunForecast], start: float, slots: int
) -> Table:
    table = Table(title="Forecast", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("Method")
    gpus = sweep.resources.workers_per_slot * sweep.resources.gpus_per_worker
    for heading in ("Runs", "Seconds/step", "Seconds/run", "Slot-hours", *(["GPU-hours"] if gpus else []), "Wall"):
        table.add_column(heading, justify="right")
    work = {name: plan.runs * forecasts[name].total for name, plan in plans.items()}
    for name, plan in plans.items():
        each = forecasts[name]
        table.add_row(name, str(plan.runs), f"{each.step:.3g}", f"{each.total:.3g}", *_hours(work[name], gpus))
    total = sum(work.values())
    table.add_section()
    wall = timedelta(seconds=round(start + total / slots))
    table.add_row("total", str(sum(p.runs for p in plans.values())), "", "", *_hours(total, gpus), str(wall))
    return table


def _hours(seconds: float, gpus: float) -> list[str]:
    hours = [f"{seconds / 3600:.3g}"]
    return [*hours, f"{gpus * seconds / 3600:.3g}"] if gpus else hours
