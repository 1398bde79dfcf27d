"""The report's sections, in order, and their contents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gallop_ray.reporting.figures.rate_law import rate_laws
from gallop_ray.reporting.report.comparisons import comparisons_sheet, stability_text
from gallop_ray.reporting.report.cost import cost_sheet
from gallop_ray.reporting.report.drawings import PageFigure
from gallop_ray.reporting.report.ends import ends_sheet
from gallop_ray.reporting.report.equal_id import equal_id_sheet
from gallop_ray.reporting.report.material import ReportData
from gallop_ray.reporting.report.reproduce import facts, sweep_yaml
from gallop_ray.reporting.report.results import best_sheet, configurations_sheet, further_sheet, tasks_sheets
from gallop_ray.reporting.report.said import flips_sheet, samples_sheet
from gallop_ray.reporting.report.sheet import ReportTable
from gallop_ray.reporting.report.spreads import spreads_sheet
from gallop_ray.reporting.report.stages import stages_sheet

_TOO_FEW = (
    "The importance of parameters is left out: it takes ten finished configurations of a method that searches two "
    "parameters or more."
)


@dataclass(frozen=True)
class Section:
    """`text`: paragraphs; `facts`: terms with their values; `listings`: folded texts with their summaries."""

    name: str
    title: str
    text: Sequence[str] = ()
    sheets: Sequence[ReportTable] = ()
    figures: Sequence[PageFigure] = ()
    facts: Sequence[tuple[str, str]] = ()
    listings: Sequence[tuple[str, str]] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.sheets or self.figures or self.facts)


def sections(material: ReportData, figures: Mapping[str, PageFigure]) -> list[Section]:
    """All sections that have something to show."""

    def of(*names: str) -> list[PageFigure]:
        return [figures[name] for name in names if name in figures]

    studied = [] if "importance" in figures or len(material.found) <= len(material.best) else [_TOO_FEW]
    if "rate_law" in figures:
        laws = rate_laws(material.frame, material.sweep.objective)
        studied = [*(f"{method}: {law}." for method, law in laws.items()), *studied]
    reproduce = [("The sweep file, every default written out", sweep_yaml(material.sweep))]
    found = [
        Section("results", "Results", (), _sheets(_results(material))),
        Section(
            "comparisons",
            "Methods in pairs",
            stability_text(material),
            _sheets([comparisons_sheet(material)]),
            of("differences"),
        ),
        Section("said", "What the models say", (), _sheets([flips_sheet(material), samples_sheet(material)])),
        Section("density", "Accuracy and forgetting against density", (), (), of("density")),
        Section("front", "Learning against forgetting", (), _sheets([equal_id_sheet(material)]), of("front")),
        Section("search", "What the search found", studied, (), of("learning_rate", "rate_law", "importance")),
        Section("masks", "Where each method trains", (), (), of("masks", "overlap")),
        Section("training", "Training", (), (), of("loss")),
        Section("seeds", "Seed by seed", (), _sheets([spreads_sheet(material)]), of("seeds")),
        Section("cost", "Cost", (), _sheets([cost_sheet(material)]) if len(material.frame) else (), of("cost")),
        Section("tasks", "Task by task", (), tasks_sheets(material)),
        Section("ends", "What did not finish", (), _sheets([ends_sheet(material)])),
        Section("reproduce", "To reproduce this", (), (), (), facts(material), reproduce),
    ]
    return [section for section in found if not section.empty]


def _results(material: ReportData) -> list[ReportTable | None]:
    if not material.best:
        return []
    return [best_sheet(material), stages_sheet(material), further_sheet(material), configurations_sheet(material)]


def _sheets(found: Sequence[ReportTable | None]) -> list[ReportTable]:
    return [sheet for sheet in found if sheet is not None]
