"""Figures as files, and as inline SVG, which follows the page's colours."""

import re
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from gallop_ray.reporting.figures.style import INK, MUTED, PALETTE, PAPER, RULE

_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper"} | {
    colour: f"c{place}" for place, colour in enumerate(PALETTE)
}
_COLOURS = re.compile("|".join(_VARIABLES))
_PNG_DPI = 200
# What only a standalone file needs: prolog, metadata and namespaces (addresses, though nothing is fetched), and ids,
# which nothing refers to and which other figures on the page repeat.
_FILE_ONLY = re.compile(
    r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->"
    r'| xmlns(:xlink)?="[^"]*"| version="1\.1"| id="(?:[A-Za-z0-9.]+_\d+|image[0-9a-f]+)"|(?<= )xlink:(?=href)',
    re.DOTALL,
)
_SIZE = re.compile(r'<svg[^>]* width="([\d.]+)pt"')


@dataclass(frozen=True)
class RenderedFigure:
    """A figure on the page; `width`: as drawn, in CSS pixels."""

    svg: str
    width: int


def write_figure(figure: Figure, folder: Path, name: str, description: str) -> RenderedFigure:
    """Write <name>.svg and <name>.png into the folder. Returns inline SVG with `description` for screen readers.

    The same figure gives the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, not for each format
    # Text as text instead of outlines; ids by the name and no date, for the same bytes every time.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        text = StringIO()
        figure.savefig(text, format="svg", facecolor=PAPER, metadata={"Date": None})
    (folder / f"{name}.svg").write_text(text.getvalue(), encoding="utf-8")
    figure.savefig(folder / f"{name}.png", dpi=_PNG_DPI, facecolor=PAPER)
    return _in_page(text.getvalue(), description)


def _in_page(svg: str, description: str) -> RenderedFigure:
    match = _SIZE.search(svg)
    assert match, "matplotlib's SVG states its width"
    width = round(float(match.group(1)) * 4 / 3)
    svg = _FILE_ONLY.sub("", svg)
    svg = re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{description}">', svg, count=1)
    svg = _COLOURS.sub(lambda found: f"var(--{_VARIABLES[found.group()]})", svg)
    return RenderedFigure("\n".join(line.strip() for line in svg.splitlines() if line.strip()), width)
