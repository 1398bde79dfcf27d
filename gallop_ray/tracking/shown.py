"""What MLflow shows of a record: names, parameters and metrics, so few that a table of them can be read."""

from collections.abc import Mapping
from typing import Any

from gallop_ray.spec.configuration import space_keys
from gallop_ray.spec.schema import Sweep
from gallop_ray.tracking.files import Record
from gallop_ray.tracking.mlflow_store import Point
from gallop_ray.tracking.summary import measurements

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
    params = configuration_params(configuration, sweep)
    searched = (name for name in _searched(configuration, sweep) if name in params)
    chosen = (f"{_SHORT.get(name, name)}={_short(params[name])}" for name in searched)
    return " ".join((configuration["method"]["name"], *chosen, ending))


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


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
