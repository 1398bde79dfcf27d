"""Names beside points, placed so that they cover neither points nor each other."""

from collections.abc import Mapping, Sequence
from typing import Literal, cast

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from gallop_ray.reporting.figures.style import MUTED

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
    """Write each name near its point: the first place that is free, or, where none is, the last one tried.

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
