"""How much each method depends on the learning rate."""

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
    method_styles,
    metric_label,
    panels,
    plot_points,
    styled,
)
from gallop_ray.spec.metrics import scale_of
from gallop_ray.spec.search import ObjectiveSpec

_COLUMNS = 4


@styled
def plot_learning_rate(frame: pd.DataFrame, objective: ObjectiveSpec = DEFAULT, metric: str | None = None) -> Figure:
    """A metric, by default the objective's, against the learning rate: one panel per method, one point per run.

    The line joins the means over seeds of the best configuration at each learning rate.

    Raises:
        NothingToDrawError: where no method was tried at two learning rates.
    """
    name = metric or objective.metric
    found = by_method(searched(frame, objective), frame)
    shown = {method: of_it for method, of_it in found.items() if len({_rate(each) for each in of_it} - {None}) > 1}
    if not shown:
        raise NothingToDrawError("no method was tried at two learning rates")
    look = method_styles(frame["method"])
    figure, axes = panels(len(shown), _COLUMNS, 1.65 if len(shown) > _COLUMNS else 2.4, sharex=True, sharey=True)
    for each, (method, of_it) in zip(axes, shown.items(), strict=True):
        _draw(each, of_it, name, look[method])
        each.set_title(method)
    axes[0].set_xscale("log")  # the panels share their axes
    label_log_axis(axes[0].xaxis)
    figure.supxlabel("learning rate", size=9)
    figure.supylabel(metric_label(name), size=9)
    return figure


def _rate(summary: Summary) -> float | None:
    rate: float | None = summary.first("learning_rate")
    return rate


def _draw(axes: Axes, found: Sequence[Summary], metric: str, look: MethodStyle) -> None:
    best: dict[float, Summary] = {}
    seeds: dict[float, list[float]] = defaultdict(list)
    for each in found:  # sorted by the objective
        if (rate := _rate(each)) is not None and (seen := values(each, metric)):
            best.setdefault(rate, each)
            seeds[rate] += [scale_of(metric) * value for value in seen]
    rates = sorted(best)
    points = [(rate, value) for rate in rates for value in seeds[rate]]
    means = [scale_of(metric) * (best[rate].over_seeds(metric)[0] or 0.0) for rate in rates]
    plot_points(axes, points, look, alpha=0.5)
    axes.plot(rates, means, color=look.colour)
