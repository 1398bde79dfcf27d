"""What notebooks and scripts use, in the words of the sweep file. Offered by `gallop_ray` itself.

Nothing heavy is imported before it is needed: reading results needs neither torch nor Ray.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.schema import Sweep

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = [
    "load_sweep",
    "plot_differences",
    "plot_importance",
    "plot_loss",
    "plot_masks",
    "plot_overlap",
    "results",
    "run_sweep",
    "statistics",
]


def run_sweep(sweep: Sweep | str | Path, overrides: Sequence[str] = (), verbose: bool = False) -> Path:
    """Run what is not yet done of a sweep, as `gallop-ray run` does, and return its folder.

    Args:
        sweep: a sweep, or the path of its file.
        overrides: of a file, as `--set` has them: "training.epochs=2".
        verbose: show what Ray and DeepSpeed say, too.

    Raises:
        ValueError: for what the user has to mend; a mistake in the file with its line.
    """
    if isinstance(sweep, Sweep) and overrides:
        raise ValueError("overrides belong to a sweep file: give them to load_sweep")
    from gallop_ray.sweep.driver import located
    from gallop_ray.sweep.driver import run_sweep as run

    asked = sweep if isinstance(sweep, Sweep) else load_sweep(sweep, overrides)
    return run(located(asked), verbose, None if isinstance(sweep, Sweep) else sweep).path


def results(directory: str | Path) -> "pd.DataFrame":
    """One row a run that is over, with the columns of results.jsonl; also while the sweep runs.

    Args:
        directory: the sweep's folder, <output>/<sweep name>.

    Raises:
        ValueError: there is no sweep.
    """
    from gallop_ray.analysis.frame import results_frame
    from gallop_ray.reporting.status import opened

    return results_frame(*opened(str(directory)))


def statistics(directory: str | Path) -> "pd.DataFrame":
    """How each metric spreads over the seeds of a configuration: a row for each metric of each configuration.

    Columns: configuration, method, stage (a configuration that was confirmed has two), metric, n, mean, std,
    standard_error, low and high (the bootstrap 95 % interval of the mean), worst, worst_seed; docs/statistics.md.

    Raises:
        ValueError: there is no sweep.
    """
    from gallop_ray.analysis.frame import spreads_frame
    from gallop_ray.analysis.statistics import sweep_statistics
    from gallop_ray.reporting.status import opened

    return spreads_frame(sweep_statistics(*opened(str(directory))).configurations)


def plot_loss(directory: str | Path) -> "Figure":
    """Training loss of each method's best configuration, a line a seed.

    Argument and errors as those of `plot_differences`.
    """
    return _figure(directory, "loss")


def plot_masks(directory: str | Path) -> "Figure":
    """Where each method trains: density by layer and type of matrix.

    Argument and errors as those of `plot_differences`.
    """
    return _figure(directory, "masks")


def plot_overlap(directory: str | Path) -> "Figure":
    """What the masks of each two methods have in common, their Jaccard index.

    Argument and errors as those of `plot_differences`.
    """
    return _figure(directory, "overlap")


def plot_importance(directory: str | Path) -> "Figure":
    """Each searched parameter's share of what the objective varies by.

    Argument and errors as those of `plot_differences`.
    """
    return _figure(directory, "importance")


def plot_differences(directory: str | Path) -> "Figure":
    """The leader's difference to each other method, with 95 % intervals.

    Args:
        directory: the sweep's folder, <output>/<sweep name>; it may still run.

    Raises:
        ValueError: there is no sweep, or nothing to draw (then NothingToDrawError, which says what is missing).
    """
    return _figure(directory, "differences")


def _figure(directory: str | Path, name: str) -> "Figure":
    """A figure of the report that is drawn from more than the results."""
    from gallop_ray.reporting.report.drawings import drawings
    from gallop_ray.reporting.report.material import gather
    from gallop_ray.reporting.status import opened
    from gallop_ray.search.importance import importances

    folder, sweep = opened(str(directory))
    shares = importances(folder, sweep) if name == "importance" else {}
    return drawings(gather(folder, sweep, shares))[name].draw()
