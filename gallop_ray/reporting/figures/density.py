"""Accuracy and forgetting against density: the main figure of the GaLLoP paper (arXiv 2510.19778)."""

import math
from collections import defaultdict
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gallop_ray.analysis.ranking import Summary
from gallop_ray.errors import NothingToDrawError
from gallop_ray.reporting.figures.choose import DEFAULT, by_method, searched, values
from gallop_ray.reporting.figures.style import (
    MethodStyle,
    label_log_axis,
    legend_below,
    method_styles,
    metric_label,
    panels,
    styled,
)
from gallop_ray.spec.metrics import compared, scale_of
from gallop_ray.spec.search import ObjectiveSpec

_MOST_POINTS = 8
METRICS = compared()


@styled
def plot_density(frame: pd.DataFrame, objective: ObjectiveSpec = DEFAULT, metrics: Sequence[str] = METRICS) -> Figure:
    """Metrics against density, one line per method with a band of one standard deviation over seeds.

    Shows the method's best configuration by the objective at each density. Where a range was searched, each of at most
    8 equal parts of its logarithm counts as one density. Methods tried at a single density are points.

    Raises:
        NothingToDrawError: where no method was tried at two densities.
    """
    curves = {method: _curve(of_it) for method, of_it in by_method(searched(frame, objective), frame).items()}
    curves = {method: curve for method, curve in curves.items() if curve}
    if not any(len(curve) > 1 for curve in curves.values()):
        raise NothingToDrawError("no method was tried at two densities")
    look = method_styles(frame["method"])
    known = [each for each in metrics if any(values(one, each) for curve in curves.values() for one in curve)]
    shown = known or metrics
    figure, axes = panels(len(shown), 3, 2.7, sharex=True)
    for each, metric in zip(axes, shown, strict=True):
        for method, curve in curves.items():
            _draw(each, curve, metric, look[method])
        each.set_title(metric_label(metric))
        each.set_xlabel("density (%)")
    axes[0].set_xscale("log")  # the panels share their axes
    label_log_axis(axes[0].xaxis)
    axes[0].xaxis.set_major_formatter("{x:g}")
    legend_below(figure, {method: look[method] for method in curves})
    return figure


def _curve(found: Sequence[Summary]) -> list[Summary]:
    """The best of the configurations, which are sorted by the objective, at each density, by density."""
    known = [each for each in found if _density(each) > 0]
    place = _part if len({_exactly(each) for each in known}) > _MOST_POINTS else _exactly
    ends = [math.log(_density(each)) for each in known]
    groups: dict[float, list[Summary]] = defaultdict(list)
    for each in known:
        groups[place(each, *((min(ends), max(ends)) if place is _part else ()))].append(each)
    chosen = [max(group, key=lambda one: len(one.finished)) for group in groups.values()]
    return sorted(chosen, key=_density)


def _density(summary: Summary) -> float:
    return summary.first("density") or 0.0


def _exactly(summary: Summary, *_: float) -> float:
    return float(f"{_density(summary):.3g}")


def _part(summary: Summary, low: float, high: float) -> float:
    share = (math.log(_density(summary)) - low) / ((high - low) or 1)
    return min(_MOST_POINTS - 1, int(share * _MOST_POINTS))


def _draw(axes: Axes, curve: Sequence[Summary], metric: str, look: MethodStyle) -> None:
    known = [each for each in curve if each.over_seeds(metric)[0] is not None]
    x = [100 * _density(each) for each in known]
    mean = [scale_of(metric) * (each.over_seeds(metric)[0] or 0.0) for each in known]
    std = [scale_of(metric) * (each.over_seeds(metric)[1] or 0.0) for each in known]
    axes.plot(x, mean, marker=look.marker, color=look.colour)
    if len(x) == 1:
        axes.errorbar(x, mean, std, color=look.colour, capsize=2, linewidth=1)
    low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)
