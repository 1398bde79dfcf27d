"""How records become MLflow's metrics, parameters and tags; and what of a folder has been sent."""

import getpass
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gallop_ray.analysis.ranking import best
from gallop_ray.disk.damage import Damaged
from gallop_ray.disk.regular import read_regular
from gallop_ray.mlflow_mirror.store import Point, Status
from gallop_ray.records.environment import environment_record
from gallop_ray.records.events import Event, Step, Validated
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import RunResult, StoredConfiguration
from gallop_ray.records.typed import write_record
from gallop_ray.spec.configuration import space_keys
from gallop_ray.spec.metrics import larger_is_better, test_metrics
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.metrics import base_metrics

_STEP_METRICS = ("loss", "grad_norm", "examples_per_second")  # the learning rate follows from the schedule
_SHORT = {"learning_rate": "lr"}


def step_points(events: Iterable[Event], after_step: int) -> list[Point]:
    """The metrics of the steps after `after_step`: a repeated attempt repeats steps, but each is sent once."""
    return [
        Point(f"training/{name}", float(value), event.time, event.step)
        for event in events
        if isinstance(event, Step) and event.step > after_step
        for name in _STEP_METRICS
        if (value := getattr(event, name)) is not None
    ]


def validation_points(events: Iterable[Event], after_step: int) -> list[Point]:
    """Validations during training after step `after_step`: curves next to the final values of the same names."""
    return [
        Point(f"training/{name}", float(value), event.time, event.step)
        for event in events
        if isinstance(event, Validated) and event.step > after_step
        for name, value in event.metrics.items()
        if value is not None
    ]


def last_of(points: list[Point], before: int) -> int:
    """The last step of these points; `before` where there are none."""
    return points[-1].step if points else before


def result_points(result: RunResult, time: float) -> list[Point]:
    """All measurements of a run, as final metrics."""
    return [Point(name, value, time) for name, value in result.measurements().items()]


def failure_tags(result: RunResult) -> dict[str, str]:
    """Why a run failed, as tags: the class of the failure, its reason, and the number of attempts."""
    if not result.reason:
        return {}
    tags = {"failure": result.failure, "reason": result.reason, "attempts": result.attempts}
    return {name: str(value) for name, value in tags.items() if value is not None}


def run_name(configuration: StoredConfiguration, sweep: Sweep, ending: str) -> str:
    """The method, what the search chose, and a distinguishing ending: gallop lr=0.001 seed 0."""
    searched = _searched(configuration, sweep).items()
    chosen = (f"{_SHORT.get(name, name)}={_short(value)}" for name, value in searched if value is not None)
    return " ".join((configuration.method["name"], *chosen, ending))


def _short(value: object) -> str:
    if isinstance(value, Mapping):  # a density given as the rank of a LoRA with as many parameters
        return f"LoRA rank {value['lora_rank']}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _searched(configuration: StoredConfiguration, sweep: Sweep) -> dict[str, object]:
    """What the search chose in this configuration, under the last part of each path of the search space."""
    return {
        path.partition(".")[2]: configuration.option(path)
        for method in sweep.methods
        if method.name == configuration.method["name"]
        for path in space_keys(sweep, method)
    }


def configuration_params(configuration: StoredConfiguration, sweep: Sweep) -> dict[str, object]:
    """The few parameters by which configurations are compared, as far as they are known before a run."""
    # Unknown ones are left out rather than sent as null: MLflow never changes a parameter.
    method = configuration.method
    params = {
        **_searched(configuration, sweep),
        "method": method["name"],
        "model": sweep.model.name,
        "train": ", ".join(sweep.data.train_tasks),
        "batch_size": configuration.training.get("batch_size"),
        "steps": configuration.training.get("steps"),
        "epochs": configuration.training.get("epochs") if configuration.training.get("steps") is None else None,
        "density": None if found_density(configuration) else method["density"],
        "selection_ratio": method.get("selection_ratio"),
        "learning_rate": configuration.training["learning_rate"],
    }
    return {name: value for name, value in params.items() if value is not None}


def found_density(configuration: StoredConfiguration) -> bool:
    """Whether the density is known only after a run: that of LoRA, or one given as a rank."""
    return not isinstance(configuration.method.get("density"), float)


def density_params(configuration: StoredConfiguration, results: Iterable[RunResult]) -> dict[str, object]:
    """The density that runs have measured, to as many digits as seeds agree in."""
    found = [result.density for result in results if result.density is not None]
    return {"density": f"{found[0]:.3g}"} if found and found_density(configuration) else {}


def origin_tags(source: str | Path) -> dict[str, str]:
    """Who runs a sweep, from which file and commit, under the names that MLflow's list has columns for."""
    commit = environment_record()["git_commit"]
    return {
        "mlflow.user": _user(),
        "mlflow.source.name": str(source),
        "mlflow.source.type": "LOCAL",
        **({"mlflow.source.git.commit": str(commit)} if commit else {}),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())


def sweep_points(folder: SweepFolder, sweep: Sweep, time: float) -> list[Point]:
    """What sweeps are compared by: the best configuration's objective and test metrics, the base model's, and by how
    much the best is ahead of the second-best method on test sets."""
    from gallop_ray.analysis.statistics import verdict_metric, with_means  # here: scipy, which a start does without

    results = with_means(folder.results())
    chosen, names = best(results, sweep.objective), [metric.name for metric in test_metrics()]
    names = [*sweep.objective.all_metrics, *names]
    found = {} if not chosen else {name: chosen[0].over_seeds(name)[0] for name in names}
    base = folder.base()
    measured = base_metrics(base, sweep.data) if base else {}
    found |= {f"base/{name}": measured.get(name) for name in names}
    if len(chosen) > 1:
        metric = verdict_metric(results, sweep)
        first, second = (each.over_seeds(metric)[0] for each in chosen[:2])
        sign = 1 if larger_is_better(metric) else -1
        found["best/ahead"] = None if first is None or second is None else sign * (first - second)
    return [Point(name, value, time) for name, value in found.items() if value is not None]


def sweep_params(sweep: Sweep) -> dict[str, object]:
    """The fixed parts of a sweep that distinguish it from others."""
    return {
        "model": sweep.model.name,
        "train": ", ".join(sweep.data.train_tasks),
        "ood": ", ".join(sweep.data.ood),
        "objective": ", ".join(sweep.objective.all_metrics),
    }


def sweep_tags(sweep: Sweep) -> dict[str, object]:
    """The parts that grow when a sweep is continued with more of them: MLflow never changes a parameter."""
    return {
        "methods": ", ".join(method.name for method in sweep.methods),
        "seeds": ", ".join(map(str, sweep.seeds)),
    }


FINAL_STATUS: dict[str, Status] = {
    "finished": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "diverged": "FAILED",
}


@dataclass
class Sent:
    """How much of a folder MLflow holds; kept as the folder's mlflow.json for restarts.

    Valid only for the sweep's MLflow run named here: another server, or an emptied one, is sent everything.
    """

    __pydantic_config__: ClassVar = ConfigDict(strict=True)

    sweep_run: str
    run_id: str
    status: Status = "RUNNING"
    attempt: int = 0
    offset: int = 0
    last_step: int = -1
    last_validation: int = -1
    datasets: bool = False

    @property
    def ended(self) -> bool:
        """Whether MLflow shows the run as ended, not just interrupted."""
        return self.status in FINAL_STATUS.values()

    def save(self, folder: Path) -> None:
        """Write the folder's mlflow.json."""
        write_record(folder / "mlflow.json", asdict(self), durable=False)

    @classmethod
    def load(cls, folder: Path, sweep_run: str) -> "Sent | None":
        """The folder's mlflow.json; None when there is none, or it belongs to another MLflow run of the sweep."""
        try:
            found = _SENT.validate_json(read_regular(folder / "mlflow.json"))
        except (FileNotFoundError, Damaged, ValidationError):  # not durable: after a power cut MLflow is asked instead
            return None
        return found if found.sweep_run == sweep_run else None


_SENT = TypeAdapter(Sent)
