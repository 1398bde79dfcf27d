"""The best configurations of a sweep for further use: metrics, settings, adapters."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gallop_ray.analysis.edges import edges_of
from gallop_ray.analysis.ranking import Summary, best, best_run
from gallop_ray.disk.bucket.tree import is_there
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.metrics import test_metrics
from gallop_ray.spec.schema import Sweep


@dataclass(frozen=True)
class Best:
    """The best configuration of a method.

    metrics: mean and standard deviation over its finished seeds, None where not measured; the objective comes first.
        settings: `methods` and `training` as in a sweep file. edges: sentences about values at an edge of what was
        tried. adapters: of the seed with the best validation, by round; empty where none is left.
    """

    configuration: str
    method: str
    seeds: int
    metrics: dict[str, tuple[float | None, float | None]]
    settings: dict[str, Any]
    edges: list[str]
    adapters: list[Path]


def best_of_methods(folder: SweepFolder, sweep: Sweep) -> list[Best]:
    """The best configuration of each method that has one, the overall best first."""
    return [_best(folder, sweep, summary) for summary in best(folder.results(), sweep.objective)]


def as_sweep_file(best: Best, sweep: Sweep) -> dict[str, Any]:
    """A whole sweep file that runs one best configuration again, without a search.

    What has its default is left out, and what has no effect on it, which a sweep file may not hold.
    """
    left_out = {"name", "methods", "training", "search", "budget", "pruning", "confirmation"}
    sections = {name: _written(getattr(sweep, name)) for name in Sweep.model_fields if name not in left_out}
    training = dict(best.settings["training"])
    if not training.get("ewc"):
        sections["data"].pop("fisher", None)
    if not training.get("weight_decay"):
        training.pop("decay_to", None)
    asked = {"name": f"{sweep.name}-best", **{name: each for name, each in sections.items() if each not in ({}, None)}}
    return {**asked, "methods": best.settings["methods"], "training": training}


def _written(section: Any) -> Any:
    if isinstance(section, BaseModel):
        return section.model_dump(mode="json", exclude_defaults=True)
    return list(section) if isinstance(section, tuple) else section


def _best(folder: SweepFolder, sweep: Sweep, summary: Summary) -> Best:
    settings = folder.configuration(summary.configuration).configuration()
    names = dict.fromkeys([sweep.objective.metric, *(metric.name for metric in test_metrics())])
    return Best(
        configuration=summary.configuration,
        method=summary.method,
        seeds=len(summary.finished),
        metrics={name: summary.over_seeds(name) for name in names},
        settings={"methods": [settings.method], "training": _without_unused(settings.training)},
        edges=[str(edge) for found in edges_of(folder, sweep, [summary]).values() for edge in found],
        adapters=list(_adapters(folder, sweep, summary)),
    )


def _without_unused(training: dict[str, Any]) -> dict[str, Any]:
    """Keeps either steps or epochs, whichever is in effect."""
    unused = "steps" if training.get("steps") is None else "epochs"
    return {name: value for name, value in training.items() if name != unused}


def _adapters(folder: SweepFolder, sweep: Sweep, summary: Summary) -> Iterator[Path]:
    run = best_run(folder, summary, sweep.objective)
    parts = run.parts() if run else []
    order = {task: place for place, task in enumerate(sweep.data.train_tasks)}  # of a sequence, that of its stages
    parts = sorted(parts, key=lambda part: order.get(part.path.name, 0))
    yield from (part.adapter for part in parts if is_there(part.adapter))
