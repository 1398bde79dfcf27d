"""Values as cells."""

from gallop_ray.reporting.report.sheet import MISSING, Cell
from gallop_ray.reporting.table import short_count
from gallop_ray.tracking.ranking import Summary

_GIGABYTE = 1e9


def text_cell(text: str | None) -> Cell:
    """Words."""
    return Cell(text or "", text or "")


def percent_cell(mean: float | None, std: float | None = None) -> Cell:
    """A share as percent: 72.0 ± 2.0."""
    if mean is None:
        return Cell(MISSING)
    return Cell(f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}"), mean, std)


def measured_cell(summary: Summary, metric: str) -> Cell:
    """The mean and standard deviation over seeds of a share."""
    return percent_cell(*summary.over_seeds(metric))


def number_cell(value: float | None, digits: int = 3) -> Cell:
    """A number with so many significant digits."""
    return Cell(MISSING) if value is None else Cell(f"{value:.{digits}g}", value)


def spread_cell(mean: float | None, std: float | None, digits: int = 2) -> Cell:
    """A number with its standard deviation, both with so many digits after the point."""
    if mean is None:
        return Cell(MISSING)
    return Cell(f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}"), mean, std)


def count_cell(value: int | None) -> Cell:
    """A count with a unit: 1.23M."""
    return Cell(MISSING) if value is None else Cell(short_count(value), value, note=f"{value:,}")


def gigabytes_cell(mean: float | None) -> Cell:
    """Bytes, shown as GB."""
    return Cell(MISSING) if mean is None else Cell(f"{mean / _GIGABYTE:.2f}", mean)


def seconds_cell(seconds: float | None) -> Cell:
    """Seconds, shown as seconds, minutes or hours."""
    return Cell(MISSING) if seconds is None else Cell(spoken_seconds(seconds), seconds)


def spoken_seconds(seconds: float) -> str:
    """4.8 s, 12.5 min, 3.2 h."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
