"""What the sweep cost."""

from gallop_ray.reporting.figures.cost import seconds_by_phase
from gallop_ray.reporting.report.material import ReportData
from gallop_ray.reporting.report.sheet import Cell, Column, ReportTable, number_cell, seconds_cell, text_cell


def cost_sheet(material: ReportData) -> ReportTable:
    """Runs, slot-hours and mean seconds by phase of each method."""
    frame = material.frame
    phases = seconds_by_phase(frame)
    columns = [
        Column("Method", "method", numeric=False),
        Column("Runs", "runs", note="that are over"),
        Column("Slot-hours", "slot_hours", note="of all runs that recorded their time"),
        Column("Per run", "seconds_total", note="mean of a finished run"),
        *(Column(phase.capitalize(), f"seconds_{phase}") for phase in phases.columns),
    ]
    rows = []
    for method, runs in frame.groupby("method", sort=False):
        seconds = runs["seconds_total"].dropna() if "seconds_total" in runs else runs["seed"].iloc[:0]
        finished = seconds[runs["status"] == "finished"]
        mean = float(finished.mean()) if len(finished) else None
        spent = phases.loc[method] if method in phases.index else {}
        cells = [text_cell(str(method)), Cell(str(len(runs)), len(runs)), number_cell(float(seconds.sum()) / 3600)]
        rows.append([*cells, seconds_cell(mean), *(seconds_cell(spent.get(phase)) for phase in phases.columns)])
    caption = (
        "Slot-hours: time of all runs of the method, failed ones included; one slot runs one configuration at a time. "
        "The phases are means over finished runs."
    )
    return ReportTable("cost", "Cost by method", caption, columns, rows)
