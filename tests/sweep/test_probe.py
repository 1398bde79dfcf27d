"""A forecast from a short run, without Ray: from events with known times."""

import re
from pathlib import Path

import pytest
from rich.console import Console

from gallop_ray.records.files import write_lines
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.plan import MethodPlan, plan_sweep
from gallop_ray.sweep.probe import RunForecast, Sizes, _short, _table, forecast
from tests.sweep.written import small_sweep


def test_steps_scoring_and_evaluating_grow_with_the_sweep(tmp_path: Path) -> None:
    run = SweepFolder(tmp_path).run("gallop-1", 0)
    run.path.mkdir(parents=True)
    events = [
        {"time": 0, "event": "run_started", "slot": "slot-0", "attempt": 1},
        {"time": 0, "event": "phase", "phase": "scoring"},
        {"time": 2, "event": "phase", "phase": "attaching"},
        {"time": 3, "event": "phase", "phase": "training"},
        {"time": 9, "event": "step", "step": 1},  # the warm-up
        {"time": 10, "event": "step", "step": 2},
        {"time": 11, "event": "step", "step": 3},
        {"time": 11, "event": "phase", "phase": "evaluating"},
        {"time": 15, "event": "run_ended"},
    ]
    write_lines(run.metrics, events)
    found = forecast(run, MethodPlan("gallop", 1, 1, 0, 100), Sizes(train=1000, test=80), Sizes(train=100, test=20))
    assert found == RunForecast(step=1, total=20 + 1 + 100 + 16)


def test_the_probe_is_short_and_searches_no_length(tmp_path: Path) -> None:
    space = {"training.epochs": {"linear": [1, 3]}, "gallop.density": {"choice": [0.1, 0.2]}}
    sweep = small_sweep(tmp_path, seeds=[4, 5], search={"space": space}, confirmation={"seeds": 2})
    short = _short(sweep, str(tmp_path))
    assert plan_sweep(short, None).runs == len(sweep.methods)
    plan = plan_sweep(short, None)
    assert (plan.runs, plan.steps, short.seeds) == (2, 12, (4,))
    assert list(short.search.space) == ["gallop.density"]
    assert short.tracking.uri is not None, "a probe is no business of the user's MLflow"


@pytest.mark.parametrize(("gpus", "cells"), [(0, ["2"]), (4, ["2", "16"])])
def test_hours_of_slots_and_of_gpus(tmp_path: Path, gpus: int, cells: list[str]) -> None:
    sweep = small_sweep(tmp_path, resources={"workers_per_slot": 2, "gpus_per_worker": gpus}, seeds=[0])
    plans = {plan.method: plan for plan in plan_sweep(sweep, 1000).methods}
    forecasts = {"gallop": RunForecast(1, 2400), "random": RunForecast(1, 2400)}
    console = Console(width=120, record=True)
    console.print(_table(sweep, plans, forecasts, start=60, slots=2))
    (row,) = re.findall(r"total +(.*)", console.export_text())
    assert row.split() == ["3", *cells, "1:01:00"]
