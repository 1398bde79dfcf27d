"""How all figures look: one colour and one marker a method, quiet axes, sizes for a page of 1280 or 390 pixels."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's hues, darkened until each has a contrast of 3 to 1 against white; red-green blind readers tell
# neighbours apart by lightness. The page puts lighter ones in their place in dark mode.
PALETTE = ("#0072b2", "#c8500a", "#00825f", "#a8458f", "#8f6400", "#2387b8", "#882255", "#5c6670")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "d", "8", "H", "^", "s")
INK, MUTED, RULE, PAPER = "#1b1e23", "#5b6169", "#d9dce1", "#fffffe"
"""Text and axes; lesser text; grid lines; the ground, where a figure needs one."""
WIDTH = 7.2
"""Inches of a figure of full width."""
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


class NothingToDrawError(ValueError):
    """The runs do not hold what the figure would show; the message says what is missing."""


@dataclass(frozen=True)
class Look:
    """Of a method."""

    colour: str
    marker: str


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """A colour and marker for each method, by the order of first appearance; no two methods have the same pair."""
    names = dict.fromkeys(methods)
    return {
        name: Look(PALETTE[place % len(PALETTE)], MARKERS[(place + place // len(PALETTE)) % len(MARKERS)])
        for place, name in enumerate(names)
    }


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw with this style, whatever the user's own is, and leave the user's as it was."""

    @wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with style.context(_RC, after_reset=True):
            return draw(*args, **kwargs)

    return wrapped


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure that pyplot knows nothing of; sizes in inches."""
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


def plot_points(axes: Axes, points: Sequence[tuple[float, float]], look: Look, alpha: float) -> None:
    """Small points of a method. Thousands are drawn as an image: as shapes they would be most of a page."""
    across, up = zip(*points, strict=True) if points else ((), ())
    many = len(points) > _MOST_SHAPES
    axes.plot(across, up, look.marker, color=look.colour, alpha=alpha, markersize=4, linewidth=0, rasterized=many)


NAMES: Mapping[str, str] = {
    "id_accuracy": "ID accuracy",
    "ood_accuracy": "OOD accuracy",
    "forget_ratio": "forget ratio",
    "collapse_rate": "collapse rate",
    "mean_accuracy": "mean of ID and OOD accuracy",
    "val_mean_accuracy": "validation, mean of ID and OOD",
    "val_id_accuracy": "validation ID accuracy",
    "val_ood_accuracy": "validation OOD accuracy",
    "val_forget_ratio": "validation forget ratio",
}


def spoken(metric: str) -> str:
    """A metric's name as people say it."""
    generated = metric.endswith("_generated")
    plain = metric.removesuffix("_generated")
    return NAMES.get(plain, plain.replace("_", " ")) + " by generation" * generated


def percent_label(metric: str) -> str:
    """The label of an axis in percent, its first letter large."""
    name = spoken(metric)
    return f"{name[0].upper()}{name[1:]} (%)"
