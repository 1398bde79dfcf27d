"""Names of methods beside what is drawn of them."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gallop_ray.reporting.figures.style import Look

_COLUMNS = 6


def legend_below(figure: Figure, look: Mapping[str, Look]) -> None:
    """A legend of methods in rows below the figure, where it can hide nothing."""
    handles = [
        Line2D([], [], color=each.colour, marker=each.marker, linewidth=1.5, label=name) for name, each in look.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), _COLUMNS))
