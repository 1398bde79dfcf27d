"""The objective over learning rate and density, and how the best rate depends on the density."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gallop_ray.analysis.ranking import Summary
from gallop_ray.analysis.rate_law import Point, RateLaw, fitted
from gallop_ray.errors import NothingToDrawError
from gallop_ray.reporting.figures.choose import DEFAULT, by_method, searched
from gallop_ray.reporting.figures.style import label_log_axis, metric_label, panels, styled
from gallop_ray.spec.metrics import maximized, scale_of
from gallop_ray.spec.search import ObjectiveSpec

_COLOURS = "cividis"  # as in the other heat maps
_COLUMNS, _CELLS = 3, 60


def rate_laws(frame: pd.DataFrame, objective: ObjectiveSpec = DEFAULT) -> dict[str, RateLaw]:
    """The law of each method of which enough configurations vary both, by what the search goes by."""
    found = {
        method: _points(of_it, objective) for method, of_it in by_method(searched(frame, objective), frame).items()
    }
    laws = {method: fitted(points, maximized(objective.metric)) for method, points in found.items()}
    return {method: law for method, law in laws.items() if law is not None}


@styled
def plot_rate_law(frame: pd.DataFrame, objective: ObjectiveSpec = DEFAULT) -> Figure:
    """A heat map of the objective over density and learning rate, one panel per method.

    Points are configurations, the colours between them the fitted surface, the line its best rate at each density.

    Raises:
        NothingToDrawError: where no method has a law.
    """
    laws = rate_laws(frame, objective)
    if not laws:
        raise NothingToDrawError("no method has enough configurations that differ in density and learning rate")
    found, scale = by_method(searched(frame, objective), frame), scale_of(objective.metric)
    shown = {method: _points(found[method], objective) for method in laws}
    values = [scale * each.value for points in shown.values() for each in points]
    figure, axes = panels(len(laws), _COLUMNS, 2.7)
    for each, (method, law) in zip(axes, laws.items(), strict=True):
        image = _draw(each, shown[method], law, scale, (min(values), max(values)))
        each.set_title(method)
    bar = figure.colorbar(image, ax=axes, label=metric_label(objective.metric), fraction=0.04, aspect=30)
    bar.outline.set_visible(False)
    figure.supxlabel("density (%)", size=9)
    figure.supylabel("learning rate", size=9)
    return figure


def _points(found: Sequence[Summary], objective: ObjectiveSpec) -> list[Point]:
    made = []
    for each in found:
        rate, density, value = (
            each.first("learning_rate"),
            each.first("density"),
            each.over_seeds(objective.metric)[0],
        )
        if rate and density and value is not None:
            made.append(Point(rate, density, value))
    return made


def _draw(axes: Axes, points: Sequence[Point], law: RateLaw, scale: float, limits: tuple[float, float]) -> Any:
    densities, rates = ([getattr(each, of) for each in points] for of in ("density", "rate"))
    across, up = (np.geomspace(min(each), max(each), _CELLS) for each in (densities, rates))
    grid = scale * law.value(*np.meshgrid(up, across, indexing="ij"))
    colours: dict[str, Any] = {"cmap": _COLOURS, "vmin": limits[0], "vmax": limits[1]}
    image = axes.pcolormesh(100 * across, up, grid, shading="nearest", rasterized=True, **colours)
    best = law.best(across)
    inside = (best >= up[0]) & (best <= up[-1])
    axes.plot(100 * across[inside], best[inside], color="#000001", linestyle="--")
    seen = [scale * each.value for each in points]
    axes.scatter(
        [100 * each for each in densities],
        rates,
        c=seen,
        edgecolors="#000001",
        linewidths=0.7,
        s=26,
        zorder=3,
        **colours,
    )
    axes.grid(visible=False)
    axes.set_xscale("log")
    axes.set_yscale("log")
    label_log_axis(axes.xaxis)
    label_log_axis(axes.yaxis)
    axes.xaxis.set_major_formatter("{x:g}")
    return image
