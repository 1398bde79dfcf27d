"""Where a run's time goes."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gallop_ray.errors import NothingToDrawError
from gallop_ray.reporting.figures.style import PALETTE, PAPER, new_figure, styled

PHASES = ("scoring", "selecting", "attaching", "training", "evaluating", "saving")
_SHADES = dict(zip(PHASES, (PALETTE[4], PALETTE[3], PALETTE[7], PALETTE[0], PALETTE[1], PALETTE[2]), strict=True))


def seconds_by_phase(frame: pd.DataFrame) -> pd.DataFrame:
    """The mean seconds of a finished run: one row per method in the frame's order, one column per phase."""
    finished = frame[frame["status"] == "finished"]
    columns = {f"seconds_{phase}": phase for phase in PHASES if f"seconds_{phase}" in frame}
    means = finished.groupby("method", sort=False)[list(columns)].agg(lambda each: each.fillna(0.0).mean())
    return means.rename(columns=columns)


@styled
def plot_cost(frame: pd.DataFrame) -> Figure:
    """The mean seconds of a finished run by phase, one bar per method.

    Raises:
        NothingToDrawError: where no finished run has times.
    """
    seconds = seconds_by_phase(frame)
    if not seconds.to_numpy().sum() > 0:
        raise NothingToDrawError("no finished run has the seconds of its phases")
    figure = new_figure(1.0 + 0.24 * len(seconds), 6.4)
    axes = figure.subplots()
    left = pd.Series(0.0, index=seconds.index)
    for phase in seconds.columns:
        if seconds[phase].sum() > 0:
            style: Any = {"color": _SHADES[phase], "edgecolor": PAPER, "linewidth": 0.5}
            axes.barh(range(len(seconds)), seconds[phase], left=left, label=phase, height=0.72, **style)
        left += seconds[phase]
    axes.set_yticks(range(len(seconds)), list(seconds.index))
    axes.set_ylim(len(seconds) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("seconds per run")
    figure.legend(loc="outside lower center", ncols=6)
    return figure
