"""Training loss, step by step."""

from collections.abc import Iterable

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gallop_ray.errors import NothingToDrawError
from gallop_ray.records.events import Step
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.reporting.figures.style import label_log_axis, method_styles, panels, styled

_COLUMNS = 4
_LINES = ("-", "--", ":", "-.")


def loss_frame(runs: Iterable[tuple[str, RunFolder]]) -> pd.DataFrame:
    """The logged steps of runs, each given with its method's name: method, configuration, seed, step, loss."""
    rows = [
        (method, run.configuration, run.seed, event.step, event.loss)
        for method, run in runs
        for event in run.events()
        if isinstance(event, Step) and event.loss is not None
    ]
    return pd.DataFrame(rows, columns=["method", "configuration", "seed", "step", "loss"])


@styled
def plot_loss(losses: pd.DataFrame, methods: Iterable[str] = ()) -> Figure:
    """Training loss against the step: one panel per method, one line per seed.

    Args:
        losses: from `loss_frame`.
        methods: all methods of the sweep in order, for their colours.

    Raises:
        NothingToDrawError: where no step was logged.
    """
    if losses.empty:
        raise NothingToDrawError("no run has logged a step")
    look = method_styles([*methods, *losses["method"]])
    shown = [name for name in look if name in set(losses["method"])]
    figure, axes = panels(len(shown), _COLUMNS, 1.65 if len(shown) > _COLUMNS else 2.1, sharex=True, sharey=True)
    for each, method in zip(axes, shown, strict=True):
        of_it = losses[losses["method"] == method]
        for place, (_, run) in enumerate(of_it.groupby(["configuration", "seed"])):
            line = _LINES[place % len(_LINES)]
            each.plot(run["step"], run["loss"], line, color=look[method].colour, linewidth=1, alpha=0.85)
        each.set_title(method)
    axes[0].xaxis.set_major_locator(MaxNLocator(5, integer=True))  # the panels share their axes
    if losses["loss"].min() > 0:
        axes[0].set_yscale("log")
        label_log_axis(axes[0].yaxis)
    figure.supxlabel("optimizer step", size=9)
    figure.supylabel("training loss", size=9)
    return figure
