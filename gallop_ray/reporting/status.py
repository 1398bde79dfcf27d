"""What `gallop-ray status` says: how a sweep stands, from its folder, whether or not it runs just now."""

import json
import time
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from pydantic import ValidationError
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gallop_ray.analysis.edges import edges_of
from gallop_ray.analysis.live import ActiveRun, SweepState
from gallop_ray.analysis.ranking import Summary
from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.disk.tensors import opened as opened_tensors
from gallop_ray.mlflow_mirror.store import default_uri, tracking_uri
from gallop_ray.records import control
from gallop_ray.records.files import Record
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.records.source import completed
from gallop_ray.spec.machine import TrackingSpec
from gallop_ray.spec.plan import MethodPlan, plan_sweep
from gallop_ray.spec.registry import STORED
from gallop_ray.spec.schema import Sweep

_COUNTS = ("total", "finished", "running", "pruned", "failed", "to_do")
_FOLLOW_SECONDS = 2.0


def opened(directory: str) -> tuple[SweepFolder, Sweep]:
    """A sweep's folder and its spec, with the folder where it lies now. ValueError for a folder that is no sweep."""
    path = Path(directory).expanduser().resolve()
    if not path.is_dir():
        raise ValueError(f"{path} does not exist; give the folder of a sweep, <output>/<sweep name>")
    folder = SweepFolder(path)
    try:
        sweep = Sweep.model_validate(folder.spec(), context=STORED)
    except ValidationError as error:
        raise ValueError(f"{path / 'spec.json'} is not a sweep of this version: {error}") from None
    moved = sweep.model_copy(update={"output": str(path.parent), "name": path.name})
    return folder, completed(folder, moved)


def stored_at(directory: str) -> tuple[str, str]:
    """The MLflow store and experiment of a sweep, given its folder, or of a folder of sweeps that name neither."""
    if not SweepFolder(Path(directory).expanduser()).exists():
        return default_uri(directory), TrackingSpec().experiment
    sweep = opened(directory)[1]
    return tracking_uri(sweep), sweep.tracking.experiment


class SweepStatus:
    """How a sweep stands; `look` brings it up to date, reading only what may have changed."""

    def __init__(self, folder: SweepFolder, sweep: Sweep) -> None:
        self._folder, self._sweep = folder, sweep
        self._planned = {plan.method: plan for plan in plan_sweep(sweep, None).methods}
        self._driver: Record | None = None
        self._state = self._new_state()

    def _new_state(self) -> SweepState:
        since = self._driver.get("started") if self._driver else None
        return SweepState(self._folder, list(self._planned.values()), self._sweep.objective, since)

    def look(self) -> Record:
        """How it stands, as --json prints it."""
        driver = control.driver(self._folder)
        if driver != self._driver:  # what went on under another driver does not go on any more
            self._driver = driver
            self._state = self._new_state()
        self._state.look()
        return self._record()

    def _record(self) -> Record:
        state, best = self._state, self._state.best()
        methods = self._counts({each.method: each for each in best})
        whole = {
            kind: {name: sum(each[kind][name] for each in methods.values()) for name in _COUNTS}
            for kind in ("configurations", "runs")
        }
        return {
            "name": self._sweep.name,
            "folder": str(self._folder.path),
            "state": self._word(whole["runs"]["to_do"] + whole["runs"]["running"]),
            "driver": self._driver,
            **whole,
            "methods": methods,
            "objective": self._sweep.objective.metric,
            "best": self._best(best[0] if best else None),
            "seconds_left": state.seconds_left(),
            "slot_seconds_left": state.slot_seconds_left(),
            "running": [_running(run) for run in state.active],
            "half_done": [_half_done(run, self._folder) for run in state.half_done],
            "failed": [_failed(result) for result in state.results if result["status"] != "finished"],
        }

    def _word(self, left: int) -> str:
        if self._driver is None:
            return "finished" if not left else "not running"
        asked = control.asked(self._folder)
        if asked == "pause":
            return "pausing" if self._state.active else "paused"
        return "running" if asked is None else "stopping"

    def _counts(self, best: dict[str, Summary]) -> dict[str, Record]:
        begun = Counter(self._state.methods.values())
        ends: dict[str, Counter[str]] = {name: Counter() for name in self._planned}
        active: dict[str, set[str]] = {name: set() for name in self._planned}
        for key, status in self._state.over.items():
            ends[self._state.methods[key]][_end(status["status"])] += 1
        for run in self._state.active:
            active[self._state.methods[run.configuration]].add(run.configuration)
        return {
            name: {
                "configurations": _counted(max(plan.configurations, begun[name]), ends[name], len(active[name])),
                "runs": self._runs(plan, max(plan.configurations, begun[name])),
                "best": self._best(best.get(name)),
            }
            for name, plan in self._planned.items()
        }

    def _best(self, best: Summary | None) -> Record | None:
        if best is None:
            return None
        found = edges_of(self._folder, self._sweep, [best]).get(best.configuration, ())
        return {
            "configuration": best.configuration,
            "objective": best.values[0],
            "edges": [str(edge) for edge in found],
        }

    def _runs(self, plan: MethodPlan, configurations: int) -> Record:
        state, methods, method = self._state, self._state.methods, plan.method
        total = configurations * len(self._sweep.seeds) + plan.confirmed
        ends = Counter(_end(r["status"]) for r in state.results if methods[r["configuration"]] == method)
        active = sum(methods[run.configuration] == method for run in state.active)
        left = state.runs_left_of[method]
        return {
            "total": total,
            "finished": ends["finished"],
            "running": active,
            # Seeds that were spared because their configuration was pruned, or had failed.
            "pruned": total - sum(ends.values()) - left,
            "failed": ends["failed"],
            "to_do": left - active,
        }


def _end(status: str) -> str:
    return "failed" if status == "diverged" else status


def _counted(total: int, ends: "Counter[str]", active: int) -> Record:
    left = total - sum(ends.values())
    over = {name: ends[name] for name in ("finished", "pruned", "failed")}
    return {"total": total, **over, "running": active, "to_do": left - active}


def _running(run: ActiveRun) -> Record:
    return {
        "configuration": run.configuration,
        "seed": run.seed,
        "slot": run.slot,
        "attempt": run.attempt,
        "phase": run.phase,
        "step": run.step,
        "steps": run.steps,
        "loss": run.loss,
        "seconds_since_event": round(time.time() - run.last_event, 1),
    }


def _half_done(run: ActiveRun, folder: SweepFolder) -> Record:
    step = checkpoint_step(folder.run(run.configuration, run.seed))
    return {"configuration": run.configuration, "seed": run.seed, "checkpoint_step": step, "steps": run.steps}


def checkpoint_step(run: RunFolder) -> int | None:
    """The step of a run's last checkpoint, finished rounds counting as such; None where there is none."""
    steps = [_kept_step(part) for part in run.parts()]
    known = [step for step in steps if step is not None]
    return sum(known) if known else None


def _kept_step(part: RunFolder) -> int | None:
    result = part.result()
    if result is not None:
        return int(result.get("steps") or 0)
    try:
        with opened_tensors(part.checkpoint) as file:
            return int(file.get_tensor("step"))
    except FileNotFoundError:
        return None
    except (Damaged, TypeError) as error:
        note_damage(part.checkpoint, getattr(error, "reason", "has no step"), "the run begins from its start")
        return None


def _failed(result: Record) -> Record:
    return {name: result.get(name) for name in ("configuration", "seed", "status", "reason")}


def found_line(record: Record) -> str:
    """What a start finds in the folder, in one line; empty where nothing has been begun."""
    runs, half_done = record["runs"], record["half_done"]
    if not (runs["finished"] or runs["failed"] or half_done):
        return ""
    parts = [f"{runs['finished']} of {runs['total']} runs finished"]
    if half_done:
        parts.append(f"{len(half_done)} half-done ({', '.join(map(_where, half_done))})")
    parts += [f"{runs[name]} {name}" for name in ("failed", "pruned") if runs[name]]
    return f"found {', '.join(parts)}, {max(0, runs['to_do'] - len(half_done))} to do"


def _where(run: Record) -> str:
    place = f"{run['configuration']} seed {run['seed']}"
    return place if run["checkpoint_step"] is None else f"{place} at step {run['checkpoint_step']}"


def print_status(directory: str, as_json: bool, follow: bool) -> None:
    """Print how a sweep stands, once or until it is over."""
    status = SweepStatus(*opened(directory))
    record = status.look()
    if as_json:
        print(json.dumps(record), flush=True)
        while follow and record["driver"]:
            time.sleep(_FOLLOW_SECONDS)
            record = status.look()
            print(json.dumps(record), flush=True)
    elif not follow:
        Console(markup=False).print(render(record))
    else:
        with Live(render(record), auto_refresh=False) as live:
            while record["driver"]:
                time.sleep(_FOLLOW_SECONDS)
                record = status.look()
                live.update(render(record), refresh=True)


def render(record: Record) -> Group:
    """The record as a table and the active runs."""
    return Group(_head(record), _table(record), *map(Text, _lines(record)))


def _head(record: Record) -> Text:
    parts = [f"{record['name']}: {record['state']}"]
    if record["driver"]:
        parts.append(f"pid {record['driver'].get('pid')} on {record['driver'].get('host')}")
    if record["seconds_left"]:
        slot_hours = record["slot_seconds_left"] / 3600
        left = timedelta(seconds=round(record["seconds_left"]))
        parts.append(f"about {left} left" if record["driver"] else f"about {slot_hours:.3g} slot-hours left")
    return Text(", ".join(parts))


def _table(record: Record) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("Configurations\n  runs")
    for name in (*_COUNTS, "best"):
        table.add_column(name.replace("_", " ").capitalize(), justify="right")
    rows = record["methods"] | ({"total": record} if len(record["methods"]) > 1 else {})
    for method, counts in rows.items():
        best = counts["best"]
        cells = [f"{counts['configurations'][name]}\n{counts['runs'][name]}" for name in _COUNTS]
        table.add_row(f"{method}\n  runs", *cells, "" if best is None else f"{100 * best['objective']:.1f} %")
    return table


def _lines(record: Record) -> Iterable[str]:
    for run in record["running"]:
        yield _running_line(run)
    for run in record["half_done"]:
        yield f"half-done: {_where(run)}"
    for run in record["failed"]:
        yield f"{run['status']}: {run['configuration']} seed {run['seed']}: {(run['reason'] or '').split(chr(10))[0]}"
    if record["best"]:
        yield f"best {record['best']['configuration']}: {record['objective']} {100 * record['best']['objective']:.1f} %"
    for method in record["methods"].values():
        yield from (f"at an edge: {edge}" for edge in (method["best"] or {}).get("edges", ()))


def _running_line(run: Record) -> str:
    line = f"{run['slot']}: {run['configuration']} seed {run['seed']} {run['phase']}"
    if run["steps"]:
        line += f", step {run['step']}/{run['steps']}"
    if run["loss"] is not None:
        line += f", loss {run['loss']:.4g}"
    return f"{line}, {run['seconds_since_event']:.0f} s ago"
