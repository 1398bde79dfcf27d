"""What a reader has to know besides the verdict."""

from collections.abc import Iterator

from gallop_ray.analysis.advice import cut_grids
from gallop_ray.analysis.diagnoses import diagnoses
from gallop_ray.reporting.report.material import ReportData


def notes(material: ReportData) -> list[str]:
    """Warnings as sentences, the most important first."""
    found = [note for look in (_unfinished, _bad, _cut_grids) for note in look(material)]
    return [*found, *(f"{each.text}." for each in diagnoses(material.folder, material.sweep, material.best))]


def _unfinished(material: ReportData) -> Iterator[str]:
    runs, state = material.status.runs, material.status.state
    left = runs.to_do + runs.running
    if left:
        over = runs.total - left
        yield f"the sweep is {state}: {over} of {runs.total} runs are over, and what is said here may change."


def _bad(material: ReportData) -> Iterator[str]:
    failed, pruned = material.status.runs.failed, material.status.runs.pruned
    if failed:
        were = "run" if failed == 1 else "runs"
        yield f"{failed} {were} failed or diverged and {'counts' if failed == 1 else 'count'} in no mean; see the end."
    if pruned:
        stopped = sum(run.status == "pruned" for run in material.results)
        if stopped:
            yield f"{stopped} {'run was' if stopped == 1 else 'runs were'} stopped early, at a rung; see the end."
        if skipped := pruned - stopped:
            were = "1 run was skipped" if skipped == 1 else f"{skipped} runs were skipped"
            yield f"{were}, because the configuration was pruned or had failed."


def _cut_grids(material: ReportData) -> Iterator[str]:
    yield from (f"{text}." for text in cut_grids(material.sweep))
