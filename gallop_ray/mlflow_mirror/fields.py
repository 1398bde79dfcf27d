"""What MLflow shows of a record, and what of a folder it has been sent."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from gallop_ray.disk.damage import Damaged
from gallop_ray.mlflow_mirror.store import Point, Status
from gallop_ray.records.files import Record, write_json
from gallop_ray.records.shapes import Shape, integer, text, truth
from gallop_ray.records.summary import measurements
from gallop_ray.spec.configuration import space_keys
from gallop_ray.spec.schema import Sweep

_STEP_METRICS = ("loss", "grad_norm", "examples_per_second")  # the learning rate follows from the schedule
_SHORT = {"learning_rate": "lr"}


def step_points(events: list[Record], after_step: int) -> list[Point]:
    """The metrics of the steps after `after_step`. A repeated attempt repeats steps; each is sent once."""
    return [
        Point(f"training/{name}", float(event[name]), event["time"], event["step"])
        for event in events
        if event["event"] == "step" and event["step"] > after_step
        for name in _STEP_METRICS
        if event.get(name) is not None
    ]


def validation_points(events: list[Record], after_step: int) -> list[Point]:
    """What was validated during training after step `after_step`: curves beside the final values of those names."""
    return [
        Point(f"training/{name}", float(value), event["time"], event["step"])
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


def run_name(configuration: Record, sweep: Sweep, ending: str) -> str:
    """The method, what the search chose, and an ending that tells it from others: gallop lr=0.001 seed 0."""
    searched = _searched(configuration, sweep).items()
    chosen = (f"{_SHORT.get(name, name)}={_short(value)}" for name, value in searched if value is not None)
    return " ".join((configuration["method"]["name"], *chosen, ending))


def _short(value: object) -> str:
    if isinstance(value, Mapping):  # a density by the rank of a LoRA that trains as many
        return f"LoRA rank {value['lora_rank']}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _searched(configuration: Record, sweep: Sweep) -> dict[str, object]:
    """What the search chose in this configuration, under the last part of each path of the search space."""
    chosen = {}
    for method in sweep.methods:
        if method.name == configuration["method"]["name"]:
            for section, field in (path.split(".") for path in space_keys(sweep, method)):
                chosen[field] = configuration[section][field]
    return chosen


def configuration_params(configuration: Record, sweep: Sweep) -> dict[str, object]:
    """The few parameters by which configurations are compared, as far as they are known before a run."""
    method = configuration["method"]
    params = {
        **_searched(configuration, sweep),
        "method": method["name"],
        "density": None if found_density(configuration) else method["density"],
        "selection_ratio": method.get("selection_ratio"),
        "learning_rate": configuration["training"]["learning_rate"],
    }
    return {name: value for name, value in params.items() if value is not None}


def found_density(configuration: Record) -> bool:
    """Whether a run finds out its density: that of LoRA, and what is asked for by a rank. A number on every axis."""
    return not isinstance(configuration["method"].get("density"), float)


def density_params(configuration: Record, results: Iterable[Record]) -> dict[str, object]:
    """The density that runs have found out, to the digits in which seeds agree."""
    found = [result["density"] for result in results if result.get("density") is not None]
    return {"density": f"{found[0]:.3g}"} if found and found_density(configuration) else {}


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


FINAL_STATUS: dict[str, Status] = {
    "finished": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "diverged": "FAILED",
}

_SENT = Shape(
    needed={"sweep_run": text, "run_id": text},
    known={
        "status": text,
        "datasets": truth,
        **dict.fromkeys(("attempt", "offset", "last_step", "last_validation"), integer),
    },
)


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
    datasets: bool = False

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
            value = _SENT.read(folder / "mlflow.json")
        except Damaged:  # cut short by a power cut: MLflow is asked for the run
            return None
        if value is None or value["sweep_run"] != sweep_run:
            return None
        return cls(**{name: value[name] for name in (each.name for each in fields(cls)) if name in value})
