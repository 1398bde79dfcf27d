"""Pairwise comparisons of methods: a table, and a figure of those with the leader."""

from dataclasses import asdict, replace

import pandas as pd

from gallop_ray.analysis.comparison import Comparison
from gallop_ray.reporting.report.material import ReportData
from gallop_ray.reporting.report.sheet import (
    Cell,
    Column,
    ReportTable,
    metric_cell,
    number_cell,
    probability_cell,
    text_cell,
)
from gallop_ray.spec.metrics import display_name

_MOST_OPEN = 12
_COLUMNS = (
    Column("First", "first_method", numeric=False),
    Column("Second", "second_method", numeric=False),
    Column("Metric", "metric", numeric=False),
    Column("Difference", "difference", note="first minus second, percentage points, of losses nats"),
    Column("from", "low", note="lower end of the interval"),
    Column("to", "high", note="upper end of the interval"),
    Column("Effect size", "effect_size"),
    Column("Seeds", "seeds", note="that both have"),
    Column("Test", "test", numeric=False),
    Column("p", "p"),
    Column("Smallest p", "smallest_p", note="that the test can reach with so many seeds"),
    Column("Corrected p", "p_corrected", note="for the number of comparisons"),
    Column("Result", "different", numeric=False),
)


def comparisons_sheet(material: ReportData) -> ReportTable | None:
    """All comparisons, folded if there are many; None where no two methods can be compared."""
    found = material.statistics.comparisons
    if not found:
        return None
    caption = (
        "Best configurations in pairs over the seeds that both have: the difference of the means with its 95 % "
        "interval, in percentage points, of losses in nats. Smallest p is what the test could reach at best with so "
        "many seeds: where it is not below 0.05, only more seeds can tell the two apart."
    )
    rows = [_row(each) for each in found]
    return ReportTable("comparisons", "All pairs", caption, _COLUMNS, rows, folded=len(rows) > _MOST_OPEN)


def _row(each: Comparison) -> list[Cell]:
    return [
        text_cell(each.first_method),
        text_cell(each.second_method),
        Cell(display_name(each.metric), each.metric),
        *(points_cell(each.metric, value) for value in (each.difference, each.low, each.high)),
        _signed(number_cell(each.effect_size, 2)),
        Cell(str(each.seeds), each.seeds),
        text_cell(each.test),
        *(probability_cell(value) for value in (each.p, each.smallest_p, each.p_corrected)),
        Cell("differ" if each.different else "not told apart", str(each.different)),
    ]


def points_cell(metric: str, value: float | None) -> Cell:
    """A difference with its sign."""
    return _signed(metric_cell(metric, value, sign="+"))


def _signed(cell: Cell) -> Cell:
    return replace(cell, text=cell.text.replace("-", "−"))  # noqa: RUF001


def stability_text(material: ReportData) -> list[str]:
    """How far the seeds agree on the ranking of methods; empty where that is unknown."""
    tau = material.statistics.stability
    if tau is None:
        return []
    metric = display_name(material.statistics.metric)
    return [
        f"Any two seeds agree on the ranking of the methods by {metric} to a Kendall tau-b of {tau:.2f} on average; "
        "1 is the same ranking at every seed, 0 what chance would give."
    ]


def with_the_leader(material: ReportData) -> pd.DataFrame:
    """The comparisons of the verdict's metric in which its leader takes part, the leader first in each."""
    statistics, rows = material.statistics, []
    leader = statistics.verdict.leader if statistics.verdict else None
    for each in statistics.comparisons:
        if each.metric == statistics.metric and leader in (each.first_method, each.second_method):
            rows.append(asdict(each) if each.first_method == leader else _turned(each))
    return pd.DataFrame(rows)


def _turned(each: Comparison) -> dict[str, object]:
    swapped = {"first": each.second, "second": each.first, "first_method": each.second_method}
    ends = {"low": _negative(each.high), "high": _negative(each.low), "difference": _negative(each.difference)}
    return {**asdict(each), **swapped, "second_method": each.first_method, **ends}


def _negative(value: float | None) -> float | None:
    return None if value is None else -value
