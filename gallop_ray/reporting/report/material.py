"""The data of a report, read once from the sweep's folder."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from gallop_ray.analysis import ranking
from gallop_ray.analysis.equal_id import EqualId, equal_id
from gallop_ray.analysis.frame import frame_of
from gallop_ray.analysis.ranking import Summary, base_summary, is_confirmed, of_the_search, of_the_verdict, summaries
from gallop_ray.analysis.statistics import SweepStatistics, sweep_statistics
from gallop_ray.analysis.status import StatusReader, SweepStatus
from gallop_ray.records.files import Record
from gallop_ray.records.folders import MASK_REPORT, SweepFolder
from gallop_ray.records.masks import read_mask
from gallop_ray.records.results import RunResult, flatten
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.reporting.masks import described, mask_report
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.metrics import base_metrics

Importances = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class ReportData:
    """One sweep at one moment.

    `results`: of every run that is over; `frame`: the same from `results_frame`. `base`: the base model's metrics and
    flattened task accuracies under the names of results.jsonl; empty before it was measured. `best`: of each method,
    `found`: every configuration; both sorted by the objective. `importances`: by method and parameter.
    """

    folder: SweepFolder
    sweep: Sweep
    results: list[RunResult]
    frame: pd.DataFrame
    status: SweepStatus
    statistics: SweepStatistics
    base: Record
    importances: Importances = field(default_factory=dict)

    @cached_property
    def found(self) -> list[Summary]:
        """Every configuration by its runs of the search."""
        return summaries(of_the_search(self.results), self.sweep.objective)

    @cached_property
    def best(self) -> list[Summary]:
        """The best configuration of each method that has one, on fresh seeds once each method has some."""
        return ranking.best(self.results, self.sweep.objective)

    @cached_property
    def equal_id(self) -> EqualId | None:
        """The methods where all reach the same ID, by the runs of the search."""
        return equal_id(self.folder, self.sweep, self.results)

    @property
    def base_row(self) -> Summary | None:
        """The base model's row."""
        return base_summary(self.base, self.sweep.objective) if self.base else None

    @property
    def confirmed(self) -> bool:
        """Whether the verdict is based on runs on fresh seeds."""
        return is_confirmed(of_the_verdict(self.results, self.sweep.objective))

    def best_runs(self) -> list[tuple[str, RunFolder]]:
        """Method and folder of each finished run of the best configurations."""
        runs = [(each, run.seed) for each in self.best for run in each.finished]
        return [(each.method, self.folder.run(each.configuration, seed)) for each, seed in runs]

    def masks(self) -> list[Record]:
        """The masks of these runs, as in masks.json; the methods in the sweep's order."""
        masks = [(run, read_mask(run)) for _, run in sorted(self.best_runs(), key=lambda each: self._place(each[0]))]
        return [described(run, mask) for run, mask in masks if mask]

    def overlap(self) -> list[Record]:
        """The overlaps of pairs of methods in masks.json; empty before it was written."""
        return mask_report(self.folder.path / MASK_REPORT[0]).overlap.get("methods", [])

    def environment(self) -> Record:
        """The environment of the first run that recorded one."""
        return next((found for run in self.folder.runs() if (found := run.read("environment"))), {})

    def _place(self, method: str) -> int:
        return [each.name for each in self.sweep.methods].index(method)


def gather(folder: SweepFolder, sweep: Sweep, importances: Importances | None = None) -> ReportData:
    """Read a sweep, whether or not it is over."""
    results = folder.results()
    frame = frame_of(results, [method.name for method in sweep.methods])
    status, statistics = StatusReader(folder, sweep).look(), sweep_statistics(folder, sweep)
    return ReportData(folder, sweep, results, frame, status, statistics, _base(folder, sweep), importances or {})


def _base(folder: SweepFolder, sweep: Sweep) -> Record:
    measured = folder.base()
    if measured is None:
        return {}
    return {**base_metrics(measured, sweep.data), **flatten({"tasks": measured}), **_base_text(folder)}


def _base_text(folder: SweepFolder) -> Record:
    """What runs record of general text, of the base model; empty where it was not measured."""
    loss = folder.base_text_loss()
    if loss is None:
        return {}
    return {"text_loss": loss, "text_loss_increase": 0.0, "text_perplexity": math.exp(loss)}
