"""The style of all figures: a colour and a marker per method, quiet axes, sizes for pages of 1280 or 390 pixels."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar, cast

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import Locator, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from gallop_ray.spec.metrics import display_name, unit_of

# Okabe and Ito's hues, darkened until each has a contrast of 3 to 1 against white; red-green blind readers tell
# neighbours apart by lightness. The page puts lighter ones in their place in dark mode.
PALETTE = ("#0072b2", "#c8500a", "#00825f", "#a8458f", "#8f6400", "#2387b8", "#882255", "#5c6670")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "d", "8", "H", "^", "s")
INK, MUTED, RULE, PAPER = "#1b1e23", "#5b6169", "#d9dce1", "#fffffe"
"""Text and axes; secondary text; grid lines; the background, where a figure needs one."""
WIDTH = 7.2
"""The width of a full-width figure, in inches."""
_MOST_SHAPES = 1500

_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "path.simplify_threshold": 0.5,
}
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class MethodStyle:
    """A method's colour and marker."""

    colour: str
    marker: str


def method_styles(methods: Iterable[str]) -> dict[str, MethodStyle]:
    """A unique pair of colour and marker for each method, in the order of first appearance."""
    names = dict.fromkeys(methods)
    return {
        name: MethodStyle(PALETTE[place % len(PALETTE)], MARKERS[(place + place // len(PALETTE)) % len(MARKERS)])
        for place, name in enumerate(names)
    }


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Context manager: this style, whatever the user's own is, which is restored on exit."""

    @wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with style.context(_RC, after_reset=True):
            return draw(*args, **kwargs)

    return wrapped


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure that is not registered with pyplot; sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def panels(count: int, columns: int, height: float, width: float = WIDTH, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of `columns`, each row `height` inches; surplus panels are hidden."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = new_figure(rows * height + 0.3, width)
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for unused in axes[count:]:
        unused.set_axis_off()
    if options.get("sharex"):  # the lowest panel of each column keeps its labels
        for place, each in enumerate(axes[:count]):
            each.tick_params(labelbottom=place + columns >= count)
    return figure, axes[:count]


def label_log_axis(axis: Axis) -> None:
    """At least two ticks on a logarithmic axis whose data are drawn: powers of ten, or numbers between them."""
    low, high = sorted(axis.get_view_interval())
    within = [[each for each in _steps(low, high, subs) if low <= each <= high] for subs in ((1,), (1, 2, 5))]
    decades, between = (len(each) > 1 for each in within)
    locator: Locator = MaxNLocator(4)
    if decades or between:
        locator = LogLocator(subs=(1,) if decades else (1, 2, 5), numticks=5)
    axis.set_major_locator(locator)
    axis.set_minor_locator(NullLocator())
    if not decades:
        axis.set_major_formatter("{x:g}")


def _steps(low: float, high: float, subs: Sequence[int]) -> list[float]:
    """Multiples of the powers of ten from the one below `low` to the one below `high`."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [sub * 10.0**power for power in powers for sub in subs]


def plot_points(axes: Axes, points: Sequence[tuple[float, float]], look: MethodStyle, alpha: float) -> None:
    """Small points of a method. Thousands are rasterized: as vector shapes they would dominate the page's size."""
    across, up = zip(*points, strict=True) if points else ((), ())
    many = len(points) > _MOST_SHAPES
    axes.plot(across, up, look.marker, color=look.colour, alpha=alpha, markersize=4, linewidth=0, rasterized=many)


def metric_label(metric: str) -> str:
    """The label of an axis with its unit, capitalised."""
    name = display_name(metric)
    return f"{name[0].upper()}{name[1:]} ({unit_of(metric)})"


_COLUMNS = 6


def legend_below(figure: Figure, look: Mapping[str, MethodStyle]) -> None:
    """A legend of methods in rows below the figure, where it hides nothing."""
    handles = [
        Line2D([], [], color=each.colour, marker=each.marker, linewidth=1.5, label=name) for name, each in look.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), _COLUMNS))


Across = Literal["left", "center", "right"]
# Offsets in points, the nearest first; the farther ones get a line to their point.
_PLACES = [
    (dx * reach, dy * reach, cast(Across, across))
    for reach in (1.0, 1.9, 3.2, 4.8, 6.5)
    for dx, dy, across in ((8, 0, "left"), (-8, 0, "right"), (7, 7, "left"), (-7, 7, "right"), (7, -7, "left"),
                           (-7, -7, "right"), (0, 9, "center"), (0, -9, "center"))
]  # fmt: skip
_SIZE = 8.5


def label_points(axes: Axes, named: Mapping[str, tuple[float, float]], points: Sequence[tuple[float, float]]) -> None:
    """Write each name near its point, in the first free place, or the last one tried if none is free.

    Args:
        named: (x, y) in data units of each name.
        points: everything that should stay visible, in data units.
    """
    canvas = FigureCanvasAgg(axes.figure)  # type: ignore[arg-type]
    canvas.figure.draw_without_rendering()  # fixes the layout, by which places are judged
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    pixels = axes.transData.transform(list(points) + list(named.values()))
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in pixels]
    for name, point in sorted(named.items(), key=lambda each: -each[1][1]):
        text = axes.annotate(name, point, (0, 0), textcoords="offset points", va="center", size=_SIZE, zorder=5)
        for dx, dy, across in _PLACES:
            text.set_position((dx, dy))
            text.set_horizontalalignment(across)
            text.update_positions(renderer)
            box = text.get_window_extent(renderer).padded(1)
            if not any(box.overlaps(other) for other in taken) and _inside(box, axes):
                break
        taken.append(box)
        if max(abs(dx), abs(dy)) > 12:
            axes.annotate("", point, (dx, dy), textcoords="offset points", arrowprops=_leader())


def _leader() -> dict[str, object]:
    return {"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}


def _inside(box: Bbox, axes: Axes) -> bool:
    frame = axes.get_window_extent()
    return bool(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
