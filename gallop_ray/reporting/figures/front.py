"""What is learned against what is forgotten: one point per configuration, and the Pareto front."""

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gallop_ray.analysis.ranking import Summary
from gallop_ray.errors import NothingToDrawError
from gallop_ray.reporting.figures.choose import DEFAULT, best, by_method, searched
from gallop_ray.reporting.figures.style import (
    MUTED,
    WIDTH,
    MethodStyle,
    label_points,
    method_styles,
    metric_label,
    new_figure,
    plot_points,
    styled,
)
from gallop_ray.spec.metrics import larger_is_better, scale_of
from gallop_ray.spec.search import ObjectiveSpec

Point = tuple[float, float]


def learnt_and_forgotten(frame: pd.DataFrame) -> tuple[str, str]:
    """The metrics of the axes, x and y: accuracies, or losses where the task trained on counts by its loss."""
    has = {name for name in ("id_accuracy", "id_loss") if name in frame and frame[name].notna().any()}
    return ("ood_loss_increase", "id_loss") if has == {"id_loss"} else ("forget_ratio", "id_accuracy")


@styled
def plot_front(
    frame: pd.DataFrame, objective: ObjectiveSpec = DEFAULT, x: str = "forget_ratio", y: str = "id_accuracy"
) -> Figure:
    """Two metrics against each other: every configuration's mean as a small point, each method's best large and named.

    The line joins the configurations that no other beats in both. The bars of the best are one standard deviation over
    seeds.

    Raises:
        NothingToDrawError: where fewer than two configurations have both.
    """
    found = searched(frame, objective)
    points = {each.configuration: point for each in found if (point := _point(each, x, y))}
    if len(points) < 2:
        raise NothingToDrawError(f"fewer than two configurations have {x} and {y}")
    figure = new_figure(4.4, WIDTH)
    axes = figure.subplots()
    look = method_styles(frame["method"])
    for method, of_it in by_method(found, frame).items():
        shown = [points[each.configuration] for each in of_it if each.configuration in points]
        plot_points(axes, shown, look[method], alpha=0.4)
    front = _front(list(points.values()), larger_is_better(x) is False, larger_is_better(y) is False)
    axes.plot(*zip(*front, strict=True), color=MUTED, linewidth=1, linestyle="--", zorder=1)
    axes.set_xlabel(metric_label(x))
    axes.set_ylabel(metric_label(y))
    named = {each.method: (each, point) for each in best(frame, objective) if (point := _point(each, x, y))}
    for method, (summary, point) in named.items():
        _draw_best(axes, summary, point, (x, y), look[method])
    bars = [_bars(summary, point, (x, y)) for summary, point in named.values()]
    label_points(
        axes, {name: point for name, (_, point) in named.items()}, [*points.values(), *chain(*bars), *_along(front)]
    )
    return figure


def _along(front: Sequence[Point]) -> list[Point]:
    """Points along the line, which labels should not cover."""
    shares = [step / 16 for step in range(1, 16)]
    return [(a + s * (c - a), b + s * (d - b)) for (a, b), (c, d) in pairwise(front) for s in shares]


def _draw_best(axes: Axes, summary: Summary, point: Point, metrics: tuple[str, str], look: MethodStyle) -> None:
    xerr, yerr = _deviations(summary, metrics)
    style: Any = {"marker": look.marker, "color": look.colour, "markersize": 7, "elinewidth": 0.9}
    axes.errorbar(*point, xerr=xerr, yerr=yerr, **style)


def _deviations(summary: Summary, metrics: tuple[str, str]) -> Point:
    across, up = (scale_of(metric) * (summary.over_seeds(metric)[1] or 0.0) for metric in metrics)
    return across, up


def _bars(summary: Summary, point: Point, metrics: tuple[str, str]) -> list[Point]:
    """Points along the bars, which labels should not cover."""
    (x, y), (across, up) = point, _deviations(summary, metrics)
    steps = (-1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0)
    return [(x + step * across, y) for step in steps] + [(x, y + step * up) for step in steps]


def _point(summary: Summary, x: str, y: str) -> Point | None:
    across, up = summary.over_seeds(x)[0], summary.over_seeds(y)[0]
    return None if across is None or up is None else (scale_of(x) * across, scale_of(y) * up)


def _front(points: Sequence[Point], small_x: bool, small_y: bool) -> list[Point]:
    """The points that no other dominates, sorted by x."""
    along, up = -1 if small_x else 1, -1 if small_y else 1
    front: list[Point] = []
    for point in sorted(set(points), key=lambda point: (-along * point[0], -up * point[1])):
        if not front or up * point[1] > up * front[-1][1]:
            front.append(point)
    return front
