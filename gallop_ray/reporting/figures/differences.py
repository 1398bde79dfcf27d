"""Pairwise comparisons of methods: differences with their intervals."""

import pandas as pd
from matplotlib.figure import Figure

from gallop_ray.errors import NothingToDrawError
from gallop_ray.reporting.figures.style import INK, MUTED, PALETTE, new_figure, styled
from gallop_ray.spec.metrics import display_name, scale_of, unit_of


@styled
def plot_differences(comparisons: pd.DataFrame) -> Figure:
    """The difference of each pair of methods with its interval; significant ones are drawn in colour and filled.

    Args:
        comparisons: one row per pair with the columns metric, first_method, second_method, difference, low, high
            (shares) and different.

    Raises:
        NothingToDrawError: where there is no pair with an interval.
    """
    shown = comparisons.dropna(subset=["difference", "low", "high"]) if len(comparisons) else comparisons
    if not len(shown):
        raise NothingToDrawError("no two methods have an interval for their difference")
    figure = new_figure(0.8 + 0.24 * len(shown), 6.4)
    axes, metric = figure.subplots(), str(shown["metric"].iloc[0])
    axes.axvline(0, color=INK, linewidth=0.8)
    for row, pair in enumerate(shown.itertuples()):
        difference, low, high = (scale_of(metric) * float(value) for value in (pair.difference, pair.low, pair.high))
        colour = PALETTE[0] if pair.different else MUTED
        axes.plot([low, high], [row, row], color=colour, linewidth=1.6)
        axes.plot([difference], [row], "o" if pair.different else "s", color=colour, markersize=5)
    names = [f"{pair.first_method} − {pair.second_method}" for pair in shown.itertuples()]  # noqa: RUF001
    axes.set_yticks(range(len(shown)), names)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    unit = "percentage points" if scale_of(metric) > 1 else unit_of(metric)
    axes.set_xlabel(f"difference in {display_name(metric)} ({unit})")
    return figure
