"""The report, with what only Optuna's studies know."""

from pathlib import Path

from gallop_ray.reporting.report.write import write_report
from gallop_ray.spec.schema import Sweep
from gallop_ray.sweep.importance import importances
from gallop_ray.tracking.records import SweepFolder


def report(folder: SweepFolder, sweep: Sweep, output: str | None = None) -> Path:
    """Write the report of a sweep, running or over, and return the page's path. Needs no Ray.

    Args:
        output: the page to write, ending in .html; by default <sweep>/report/report.html. ValueError for a folder.
    """
    path = Path(output).expanduser().resolve() if output else None
    if path and (path.is_dir() or path.suffix != ".html"):
        raise ValueError(f"--output {output} is no page; give the path of a file that ends in .html")
    return write_report(folder, sweep, importances(folder, sweep), path)
