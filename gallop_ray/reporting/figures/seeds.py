"""Every seed of each method's best configuration, which a mean would hide."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gallop_ray.errors import NothingToDrawError
from gallop_ray.reporting.figures.choose import DEFAULT, best, values
from gallop_ray.reporting.figures.density import METRICS
from gallop_ray.reporting.figures.style import INK, method_styles, metric_label, panels, styled
from gallop_ray.spec.metrics import scale_of
from gallop_ray.spec.search import ObjectiveSpec


@styled
def plot_seeds(frame: pd.DataFrame, objective: ObjectiveSpec = DEFAULT, metrics: Sequence[str] = METRICS) -> Figure:
    """One point per seed and a stroke at the mean, for each method's best configuration; one panel per metric.

    Raises:
        NothingToDrawError: where none of the metrics was measured.
    """
    found = best(frame, objective)
    shown = [metric for metric in metrics if any(values(each, metric) for each in found)]
    if not shown:
        raise NothingToDrawError(f"no finished run has {', '.join(metrics)}")
    look = method_styles(frame["method"])
    figure, axes = panels(len(shown), 3, 0.5 + 0.24 * len(found), sharey=True)
    for each, metric in zip(axes, shown, strict=True):
        for row, summary in enumerate(found):
            seen = [scale_of(metric) * value for value in values(summary, metric)]
            style = look[summary.method]
            each.plot(seen, [row] * len(seen), style.marker, color=style.colour, alpha=0.75, markersize=5)
            if seen:
                each.plot([sum(seen) / len(seen)], [row], "|", color=INK, markersize=11, markeredgewidth=1.4)
        each.set_title(metric_label(metric))
        each.xaxis.set_major_locator(MaxNLocator(4))  # of more the labels touch each other
        each.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(found)), [each.method for each in found])
    axes[0].set_ylim(len(found) - 0.4, -0.6)
    return figure
