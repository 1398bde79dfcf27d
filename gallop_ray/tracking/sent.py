"""What MLflow has been told of a run, and what it is to be told: the translation from records."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gallop_ray.spec.configuration import space_keys
from gallop_ray.spec.schema import Sweep
from gallop_ray.tracking.files import Record, read_json, write_json
from gallop_ray.tracking.mlflow_store import Point, Status
from gallop_ray.tracking.summary import measurements

_STEP_METRICS = ("loss", "learning_rate", "grad_norm", "examples_per_second")
FINAL_STATUS: dict[str, Status] = {
    "finished": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "diverged": "FAILED",
}


@dataclass
class Sent:
    """How much of a folder MLflow holds; kept as the folder's mlflow.json, so that a restart knows.

    It counts only below the sweep's MLflow run named here: another server, or an emptied one, is sent everything.
    """

    sweep_run: str
    run_id: str
    status: Status = "RUNNING"
    attempt: int = 0
    offset: int = 0
    last_step: int = -1
    last_validation: int = -1

    @property
    def ended(self) -> bool:
        """Whether MLflow shows the run's end, and not merely an interruption."""
        return self.status in FINAL_STATUS.values()

    def save(self, folder: Path) -> None:
        """Write the folder's mlflow.json."""
        write_json(folder / "mlflow.json", asdict(self), durable=False)

    @classmethod
    def load(cls, folder: Path, sweep_run: str) -> "Sent | None":
        """The folder's mlflow.json; None when there is none, or it is about another MLflow run of the sweep."""
        try:
            value = read_json(folder / "mlflow.json")
        except ValueError:  # cut short by a power cut: MLflow is asked for the run
            return None
        return cls(**value) if value and value["sweep_run"] == sweep_run else None


def step_points(events: list[Record], after_step: int) -> list[Point]:
    """The metrics of the steps after `after_step`. A repeated attempt repeats steps; each is sent once."""
    return [
        Point(name, float(event[name]), event["time"], event["step"])
        for event in events
        if event["event"] == "step" and event["step"] > after_step
        for name in _STEP_METRICS
        if event.get(name) is not None
    ]


def validation_points(events: list[Record], after_step: int) -> list[Point]:
    """What was validated during training after step `after_step`: curves beside the final values of those names."""
    return [
        Point(f"{name}_by_step", float(value), event["time"], event["step"])
        for event in events
        if event["event"] == "validation" and event["step"] > after_step
        for name, value in event.items()
        if name.startswith("val_") and value is not None
    ]


def last_of(points: list[Point], before: int) -> int:
    """The last step of these points; where there are none, the one `before`."""
    return points[-1].step if points else before


def result_points(result: Record, time: float) -> list[Point]:
    """All that was measured in a run, as final metrics."""
    return [Point(name, value, time) for name, value in measurements(result).items()]


def failure_tags(result: Record) -> dict[str, str]:
    """Why a run failed, as tags: the class of the failure, its reason, and how often the run was begun."""
    names = ("failure", "reason", "attempts") if result.get("reason") else ()
    return {name: str(result[name]) for name in names if result.get(name) is not None}


def _density(method: Mapping[str, Any]) -> object:
    density = method.get("density")
    return f"LoRA rank {density['lora_rank']}" if isinstance(density, Mapping) else density


def _searched(configuration: Record, sweep: Sweep) -> dict[str, object]:
    """What the search chose in this configuration, under the last part of each path of the search space."""
    chosen = {}
    for method in sweep.methods:
        if method.name == configuration["method"]["name"]:
            for section, field in (path.split(".") for path in space_keys(sweep, method)):
                chosen[field] = configuration[section][field]
    return chosen


def configuration_params(configuration: Record, sweep: Sweep) -> dict[str, object]:
    """The few parameters by which configurations are compared."""
    method = configuration["method"]
    params = {
        **_searched(configuration, sweep),
        "method": method["name"],
        "density": _density(method),
        "selection_ratio": method.get("selection_ratio"),
        "learning_rate": configuration["training"]["learning_rate"],
        "model": sweep.model.name,
        "train": ", ".join(sweep.data.train_tasks),
    }
    return {name: value for name, value in params.items() if value is not None}


def sweep_params(sweep: Sweep) -> dict[str, object]:
    """The sweep's fixed parts that tell it from others."""
    return {
        "model": sweep.model.name,
        "train": ", ".join(sweep.data.train_tasks),
        "ood": ", ".join(sweep.data.ood),
        "methods": ", ".join(method.name for method in sweep.methods),
        "seeds": ", ".join(map(str, sweep.seeds)),
        "objective": ", ".join(sweep.objective.all_metrics),
    }
