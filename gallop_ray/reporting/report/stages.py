"""Of a sequence: what each method's best configuration knows of every task after each stage."""

from gallop_ray.analysis.ranking import Summary
from gallop_ray.reporting.report.material import ReportData
from gallop_ray.reporting.report.sheet import Cell, Column, ReportTable, measured_cell, metric_cell, text_cell

_CAPTION = (
    "Test accuracy of each method's best configuration after each stage of the sequence, means over seeds. Backward "
    "transfer: what the last stage has added to the tasks before it since each was learnt; forgotten: what they have "
    "lost of their best."
)


def stages_sheet(material: ReportData) -> ReportTable | None:
    """None where a sweep is no sequence, or has no result."""
    data = material.sweep.data
    if not data.sequence or not material.best:
        return None
    tasks = data.train_tasks
    columns = (
        Column("Method", "method", numeric=False),
        Column("After", "stage", numeric=False),
        *(Column(task, task) for task in tasks),
        *([Column("OOD", "ood_accuracy")] if data.ood else []),
        Column("Backward transfer", "backward_transfer"),
        Column("Forgotten", "sequence_forgetting"),
    )
    base = [[text_cell("base model"), text_cell(""), *_of_base(material), Cell(""), Cell("")]]
    rows = [_row(material, one, stage) for one in material.best for stage in tasks]
    return ReportTable("stages", "After each stage", _CAPTION, columns, [*base, *rows], pinned=1)


def _of_base(material: ReportData) -> list[Cell]:
    data, found = material.sweep.data, material.folder.base() or {}
    known = [next(iter(found.get(task, {}).get("test", {}).values()), None) for task in data.train_tasks]
    ood = [metric_cell("ood_accuracy", material.base.get("ood_accuracy"))] if data.ood else []
    return [*(metric_cell("id_accuracy", value) for value in known), *ood]


def _row(material: ReportData, one: Summary, stage: str) -> list[Cell]:
    data, at = material.sweep.data, f"rounds_{stage}"
    names = [f"{at}_accuracy_{task}" for task in data.train_tasks]
    names += [f"{at}_ood_accuracy"] if data.ood else []
    last = stage == data.train_tasks[-1]
    ends = [measured_cell(one, name) if last else Cell("") for name in ("backward_transfer", "sequence_forgetting")]
    return [text_cell(one.method), text_cell(stage), *(measured_cell(one, name) for name in names), *ends]
