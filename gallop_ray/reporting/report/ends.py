"""What did not finish, and why."""

from gallop_ray.reporting.report.material import ReportData
from gallop_ray.reporting.report.sheet import Cell, Column, ReportTable, text_cell

_COLUMNS = (
    Column("Configuration", "configuration", numeric=False),
    Column("Seed", "seed"),
    Column("Status", "status", numeric=False),
    Column("Failure", "failure", numeric=False),
    Column("Reason", "reason", numeric=False),
)


def ends_sheet(material: ReportData) -> ReportTable | None:
    """Failed and diverged runs and pruned configurations; None where there are none."""
    rows = [
        [
            text_cell(run.configuration),
            Cell(str(run.seed), run.seed),
            *(text_cell(each) for each in (run.status, run.failure, run.reason)),
        ]
        for run in material.results
        if run.failed
    ]
    for configuration in material.folder.configurations():
        status = configuration.status()
        if status.status == "pruned":
            rest = [text_cell(each) for each in ("pruned", "", status.reason)]
            rows.append([text_cell(configuration.key), Cell("all left"), *rest])
    if not rows:
        return None
    caption = "Their seeds count in no mean; a configuration is given up after its first run that failed or diverged."
    return ReportTable("ends", "What did not finish", caption, _COLUMNS, rows)
