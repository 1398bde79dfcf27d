"""How far each method's best configuration varies over its seeds."""

from gallop_ray.analysis.spread import Spread
from gallop_ray.analysis.statistics import ConfigurationStatistics
from gallop_ray.reporting.report.material import ReportData
from gallop_ray.reporting.report.sheet import Cell, Column, ReportTable, metric_cell, text_cell
from gallop_ray.spec.metrics import compared, display_name

_COLUMNS = (
    Column("Method", "method", numeric=False),
    Column("Metric", "metric", numeric=False),
    Column("Seeds", "n"),
    Column("Mean", "mean"),
    Column("Std", "std", note="standard deviation, n - 1"),
    Column("Std error", "standard_error", note="of the mean"),
    Column("from", "low", note="lower end of the interval of the mean"),
    Column("to", "high", note="upper end of the interval of the mean"),
    Column("Worst", "worst"),
    Column("at seed", "worst_seed"),
)


def spreads_sheet(material: ReportData) -> ReportTable | None:
    """Mean, errors, interval and worst seed; None without a finished run."""
    metrics = dict.fromkeys([material.statistics.metric, *compared()])
    rows = [
        _row(each, metric, each.spreads[metric])
        for each in material.statistics.best
        for metric in metrics
        if metric in each.spreads
    ]
    if not rows:
        return None
    caption = (
        "Each method's best configuration over its seeds, in percent, losses in nats; from and to are the ends of the "
        "bootstrap 95 % interval of the mean, which takes three seeds."
    )
    return ReportTable("spreads", "Errors, intervals and worst seeds", caption, _COLUMNS, rows, folded=True)


def _row(each: ConfigurationStatistics, metric: str, spread: Spread) -> list[Cell]:
    shares = (spread.mean, spread.std, spread.standard_error, spread.low, spread.high, spread.worst)
    seed = Cell("") if spread.worst_seed is None else Cell(str(spread.worst_seed), spread.worst_seed)
    numbers = [Cell(str(spread.n), spread.n), *(metric_cell(metric, share) for share in shares), seed]
    return [text_cell(each.method), Cell(display_name(metric), metric), *numbers]
