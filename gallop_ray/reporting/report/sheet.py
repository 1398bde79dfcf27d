"""Tables of the report: values as cells, the same rows as HTML, CSV and LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gallop_ray.analysis.ranking import Summary
from gallop_ray.reporting.table import short_count
from gallop_ray.spec.metrics import shown_value

MISSING = "–"  # noqa: RUF001
_MOST_LISTED = 500


@dataclass(frozen=True)
class Cell:
    """The displayed text, and the exact value behind it, which HTML sorts by and CSV contains."""

    text: str
    value: float | str | None = None
    std: float | None = None
    note: str = ""
    """Shown as a tooltip."""


@dataclass(frozen=True)
class Column:
    """`field`: its name in the CSV, as in results.jsonl if it comes from there."""

    heading: str
    field: str
    numeric: bool = True
    note: str = ""


@dataclass(frozen=True)
class ReportTable:
    """A table.

    Args:
        name: of its files.
        caption: one or two sentences.
        pinned: this many first rows stay on top however the rest is sorted.
        folded: collapsed until opened.

    Only the CSV has all rows; thousands of them would swamp the page, and do not fit a LaTeX table.
    """

    name: str
    title: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    pinned: int = 0
    folded: bool = False

    @property
    def listed(self) -> Sequence[Sequence[Cell]]:
        """The rows of HTML and LaTeX."""
        return self.rows[:_MOST_LISTED]

    @property
    def text(self) -> str:
        """The caption, with a note on rows that are left out."""
        left = len(self.rows) - len(self.listed)
        return f"{self.caption} {left} more rows are in {self.name}.csv." if left else self.caption

    def exact(self) -> pd.DataFrame:
        """The exact values: shares, not percents; with <field>_std for those with a standard deviation."""
        columns: dict[str, list[float | str | None]] = {}
        for place, column in enumerate(self.columns):
            cells = [row[place] for row in self.rows]
            columns[column.field] = [cell.value for cell in cells]
            if any(cell.std is not None for cell in cells):
                columns[f"{column.field}_std"] = [cell.std for cell in cells]
        return pd.DataFrame(columns)

    def shown(self) -> pd.DataFrame:
        """The texts of the listed rows under their headings."""
        texts = [[cell.text for cell in row] for row in self.listed]
        return pd.DataFrame(texts, columns=[column.heading for column in self.columns])

    def write(self, folder: Path) -> None:
        """Write <name>.csv, and <name>.tex, which needs the booktabs package."""
        folder.mkdir(parents=True, exist_ok=True)
        self.exact().to_csv(folder / f"{self.name}.csv", index=False)
        (folder / f"{self.name}.tex").write_text(self.latex(), encoding="utf-8")

    def latex(self) -> str:
        """A table environment, everything special to TeX escaped."""
        columns = "".join("r" if column.numeric else "l" for column in self.columns)
        label = f"tab:{self.name.replace('_', '-')}"
        frame = self.shown().map(_plain).rename(columns=_plain)
        text: str = frame.to_latex(index=False, escape=True, column_format=columns, label=label, caption="CAPTION")
        text = text.replace("CAPTION", _escaped(self.text))
        return text.replace("±", r"$\pm$").replace("−", "$-$").replace("< ", "$<$ ")  # noqa: RUF001


_SPECIAL = {"\\": r"\textbackslash{}", **{each: f"\\{each}" for each in "&%$#_{}"}, "~": r"\textasciitilde{}",
            "^": r"\textasciicircum{}"}  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(each, each) for each in _plain(text))


def _plain(text: str) -> str:
    """The text without line breaks, which would end a row, and without the dash of missing values, a rare glyph."""
    return " ".join(text.split()).replace(MISSING, "--") if text != MISSING else "--"


_GIGABYTE = 1e9


def text_cell(text: str | None) -> Cell:
    """A text."""
    return Cell(text or "", text or "")


def percent_cell(mean: float | None, std: float | None = None) -> Cell:
    """A share as percent: 72.0 ± 2.0."""
    if mean is None:
        return Cell(MISSING)
    return Cell(f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}"), mean, std)


def metric_cell(metric: str, mean: float | None, std: float | None = None, sign: str = "") -> Cell:
    """A metric in its own unit."""
    if mean is None:
        return Cell(MISSING)
    return Cell(shown_value(metric, mean, std, sign, " ± "), mean, std)


def measured_cell(summary: Summary, metric: str) -> Cell:
    """The mean and standard deviation over seeds of a share."""
    return metric_cell(metric, *summary.over_seeds(metric))


def number_cell(value: float | None, digits: int = 3) -> Cell:
    """A number with this many significant digits."""
    return Cell(MISSING) if value is None else Cell(f"{value:.{digits}g}", value)


def spread_cell(mean: float | None, std: float | None, digits: int = 2) -> Cell:
    """A number with its standard deviation, both with this many decimals."""
    if mean is None:
        return Cell(MISSING)
    return Cell(f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}"), mean, std)


def probability_cell(p: float | None) -> Cell:
    """A p-value."""
    if p is None:
        return Cell(MISSING)
    return Cell("< 0.001" if p < 0.001 else f"{p:.3f}", p)


def count_cell(value: float | None) -> Cell:
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
