"""Writes the report into a sweep's folder."""

import time
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import jinja2

from gallop_ray.analysis.missing import missing_text
from gallop_ray.records.folders import PAGE, SweepFolder
from gallop_ray.reporting.report.beside import finish, folder_of
from gallop_ray.reporting.report.drawings import drawings, drawn
from gallop_ray.reporting.report.material import Importances, ReportData, gather
from gallop_ray.reporting.report.notes import notes
from gallop_ray.reporting.report.sections import Section, sections
from gallop_ray.spec.schema import Sweep


def write_report(
    folder: SweepFolder, sweep: Sweep, importances: Importances | None = None, output: Path | None = None
) -> Path:
    """Write the page and return its path. With it: figures/*.svg and *.png, tables/*.csv and *.tex, verdict.txt.

    Works at any moment of a sweep. The page is self-contained: it needs no other file and no network.

    Args:
        importances: of searched parameters, by method, from `gallop_ray.search.importance`.
        output: the page's path, the rest then lies in <page>_files; by default <sweep>/report/report.html, with the
            rest beside it.

    Raises:
        ValueError: <page>_files exists, and no report has written it.
    """
    path = output or folder.path / PAGE
    beside = folder_of(path, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    material = gather(folder, sweep, importances)
    figures = drawn(drawings(material), beside / "figures")
    found = sections(material, figures)
    sheets = [sheet for section in found for sheet in section.sheets]
    for sheet in sheets:
        sheet.write(beside / "tables")
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(
        _page(material, found, "beside this file" if beside == path.parent else f"in {beside.name}/,"), encoding="utf-8"
    )
    draft.replace(path)  # whoever reloads the page meanwhile sees the old one or the new
    finish(beside, _verdict(material), figures, (sheet.name for sheet in sheets))
    return path


def _page(material: ReportData, found: list[Section], where: str) -> str:
    parts = files("gallop_ray.reporting.report")
    # Escaped, because names and reasons come from sweep files and libraries.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((parts / "page.html.j2").read_text(encoding="utf-8"))
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return template.render(
        title=material.sweep.name,
        subtitle=_subtitle(material),
        verdict=_verdict(material),
        notes=notes(material),
        sections=found,
        css=(parts / "page.css").read_text(encoding="utf-8"),
        js=(parts / "page.js").read_text(encoding="utf-8"),
        footer=f"Written by gallop_ray {version('gallop_ray')} on {written} from the records of the sweep. Figures as "
        f"SVG and PNG, and tables as CSV and LaTeX, lie {where} in figures/ and tables/.",
    )


def _verdict(material: ReportData) -> str:
    if material.statistics.verdict:
        return material.statistics.verdict.text
    if not material.best:
        return "No configuration has finished without a failed run: there is nothing to say."
    if len(material.best) > 1:
        return "No two methods have been measured on test sets: there is nothing to compare."
    only = material.best[0].method
    missing = missing_text(material.folder, material.sweep, [only])
    return " ".join(
        filter(None, [f"{only} is the only method with a result: there is nothing to compare it with.", missing])
    )


def _subtitle(material: ReportData) -> str:
    sweep, runs = material.sweep, material.status.runs
    methods = f"{len(sweep.methods)} method{'s' * (len(sweep.methods) > 1)}"
    seeds = f"{len(sweep.seeds)} seed{'s' * (len(sweep.seeds) > 1)}"
    where = f"{sweep.model.name} trained on {' and '.join(sweep.data.train_tasks)}"
    count = len(sweep.data.ood)
    others = f", forgetting measured on {count} other task{'s' * (count > 1)}" if count else ""
    return f"{where}{others} · {methods}, {seeds} · {runs.finished} of {runs.total} runs finished"
