"""What each method keeps of the other tasks where all have learnt as much."""

from gallop_ray.analysis.comparison import Comparison
from gallop_ray.analysis.equal_id import EqualId, Front
from gallop_ray.reporting.report.comparisons import points_cell
from gallop_ray.reporting.report.material import ReportData
from gallop_ray.reporting.report.sheet import (
    MISSING,
    Cell,
    Column,
    ReportTable,
    metric_cell,
    probability_cell,
    text_cell,
)
from gallop_ray.spec.metrics import display_name, shown_value, unit_of

_COLUMNS = (
    Column("Method", "method", numeric=False),
    Column("OOD", "ood", note="at this ID"),
    Column("Behind", "difference", note="the first method minus this one, percentage points, of losses nats"),
    Column("from", "low", note="lower end of the interval"),
    Column("to", "high", note="upper end of the interval"),
    Column("Seeds", "seeds", note="that both have"),
    Column("Corrected p", "p_corrected", note="for the number of comparisons"),
    Column("Mean OOD", "mean_ood", note="along the front up to this ID, from the base model's"),
    Column("Front", "front", note="configurations on the front"),
)


def equal_id_sheet(material: ReportData) -> ReportTable | None:
    """None where methods cannot be compared so."""
    found = material.equal_id
    if found is None:
        return None
    first, second = (display_name(name) for name in found.metrics)
    level = f"{shown_value(found.metrics[0], found.id_value)} {unit_of(found.metrics[0])}"
    caption = (
        f"{second} where {first} is {level}, the best that every method reaches: between a method's configurations of "
        "the search that no other one of it beats in both, the base model among them. At one learning rate a method "
        "that learns less also forgets less; here all have learnt as much."
    )
    return ReportTable("equal_id", "At equal ID", caption, _COLUMNS, [_row(found, front) for front in found.fronts])


def _row(found: EqualId, front: Front) -> list[Cell]:
    with_first = next((each for each in found.comparisons if each.second_method == front.method), None)
    metric = found.metrics[1]
    return [
        text_cell(front.method),
        metric_cell(metric, found.kept(front)),
        *_behind(with_first),
        metric_cell(metric, found.area(front)),
        Cell(str(count := sum(each is not None for each in front.configurations)), count),
    ]


def _behind(each: Comparison | None) -> list[Cell]:
    if each is None:
        return [Cell(MISSING)] * 5
    ends = [points_cell(each.metric, value) for value in (each.difference, each.low, each.high)]
    return [*ends, Cell(str(each.seeds), each.seeds), probability_cell(each.p_corrected)]
