"""The public API for notebooks and scripts, with the names of the sweep file and the command line.

`gallop_ray` exports what `__all__` lists here. Nothing heavy is imported before it is needed: reading results needs
neither torch nor Ray. A sweep is identified by its folder, `<output>/<sweep name>`, and may still be running.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gallop_ray.compat.probe import Incompatible
from gallop_ray.disk.damage import Damaged
from gallop_ray.errors import Halted, NothingToDrawError, UserError
from gallop_ray.spec.checks import checked_sweep
from gallop_ray.spec.data import DataSpec, ModelSpec
from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.machine import DeepspeedSpec, ResourcesSpec, RetentionSpec, TrackingSpec
from gallop_ray.spec.mask_methods import (
    FisherSpec,
    GallopSpec,
    GasduSpec,
    GemSpec,
    GraspSpec,
    LiftSpec,
    LtSftSpec,
    MagnitudeSpec,
    RandomSpec,
    S2ftSpec,
    SaftSpec,
    SaraSpec,
    SiftSpec,
    SkeletonSpec,
    SmtSpec,
    SnipSpec,
    SpielSpec,
    SynflowSpec,
    TaylorSpec,
    WandaSpec,
)
from gallop_ray.spec.method import LoraRank
from gallop_ray.spec.other_methods import (
    ChildTuningSpec,
    DoraSpec,
    FullSpec,
    HybridSpec,
    LinesSpec,
    LoraSpec,
    PeftSpec,
    RosaSpec,
    VanillaSpec,
    WiseFtSpec,
)
from gallop_ray.spec.problems import SweepFileError
from gallop_ray.spec.schema import ConfirmationSpec, Sweep
from gallop_ray.spec.search import BudgetSpec, ObjectiveSpec, PruningSpec, SearchSpec
from gallop_ray.spec.tasks import TaskSpec
from gallop_ray.spec.training import EvaluationSpec, TrainingSpec

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn

    from gallop_ray.analysis.best import Best
    from gallop_ray.analysis.frame import Results
    from gallop_ray.analysis.status import SweepStatus
    from gallop_ray.sparse.adapter import AppliedAdapter

__all__ = [
    "BudgetSpec",
    "ChildTuningSpec",
    "ConfirmationSpec",
    "Damaged",
    "DataSpec",
    "DeepspeedSpec",
    "DoraSpec",
    "EvaluationSpec",
    "FisherSpec",
    "FullSpec",
    "GallopSpec",
    "GasduSpec",
    "GemSpec",
    "GraspSpec",
    "Halted",
    "HybridSpec",
    "Incompatible",
    "LiftSpec",
    "LinesSpec",
    "LoraRank",
    "LoraSpec",
    "LtSftSpec",
    "MagnitudeSpec",
    "ModelSpec",
    "NothingToDrawError",
    "ObjectiveSpec",
    "PeftSpec",
    "PruningSpec",
    "RandomSpec",
    "ResourcesSpec",
    "RetentionSpec",
    "RosaSpec",
    "S2ftSpec",
    "SaftSpec",
    "SaraSpec",
    "SearchSpec",
    "SiftSpec",
    "SkeletonSpec",
    "SmtSpec",
    "SnipSpec",
    "SpielSpec",
    "Sweep",
    "SweepFileError",
    "SynflowSpec",
    "TaskSpec",
    "TaylorSpec",
    "TrackingSpec",
    "TrainingSpec",
    "UserError",
    "VanillaSpec",
    "WandaSpec",
    "WiseFtSpec",
    "apply_adapter",
    "best",
    "export",
    "load_sweep",
    "pause",
    "plot_cost",
    "plot_density",
    "plot_differences",
    "plot_front",
    "plot_importance",
    "plot_learning_rate",
    "plot_loss",
    "plot_masks",
    "plot_overlap",
    "plot_rate_law",
    "plot_seeds",
    "report",
    "results",
    "resume",
    "retry",
    "run_sweep",
    "statistics",
    "status",
    "stop",
]

Directory = str | Path


def run_sweep(
    sweep: Sweep | Mapping[str, Any] | Directory,
    overrides: Sequence[str] = (),
    verbose: bool = False,
    data: Mapping[str, Any] | None = None,
) -> Path:
    """Run what remains of a sweep, as `gallop-ray run` does, and return its folder.

    Args:
        sweep: a sweep, the content of a sweep file as a dict, or the path of a file.
        overrides: for a file, in the form of `--set`: "training.epochs=2".
        verbose: also show the output of Ray and DeepSpeed.
        data: the rows of tasks by their names: a DataFrame, a Dataset or DatasetDict of datasets, or a list of dicts.
            They are written into the sweep's folder; everything else about a task is in data.tasks, without a source.

    Raises:
        UserError: for a user's mistake; SweepFileError names all mistakes, in a file with their lines. Both are
            ValueErrors.
        Halted: it had to stop for another reason; the same call resumes it.
    """
    if overrides and not isinstance(sweep, str | Path):
        raise ValueError("overrides belong to a sweep file: give them to load_sweep")
    asked = sweep if isinstance(sweep, Sweep) else _read(sweep, overrides, data)
    if data and isinstance(sweep, Sweep):
        asked = _with_rows(sweep, data)
    from gallop_ray.sweep.driver import located
    from gallop_ray.sweep.driver import run_sweep as run
    from gallop_ray.tasks.objective import with_default_objective

    return run(located(with_default_objective(asked)), verbose, sweep if isinstance(sweep, str | Path) else None).path


def _read(
    sweep: Mapping[str, Any] | Directory, overrides: Sequence[str], data: Mapping[str, Any] | None = None
) -> Sweep:
    if isinstance(sweep, Mapping):
        return _with_rows(sweep, data) if data else checked_sweep(dict(sweep))
    found = load_sweep(sweep, overrides)
    return _with_rows(found, data) if data else found


def _with_rows(sweep: Sweep | Mapping[str, Any], data: Mapping[str, Any]) -> Sweep:
    from gallop_ray.tasks.sources.given import with_rows

    return checked_sweep(with_rows(sweep, data))


def resume(directory: Directory, verbose: bool = False) -> Path:
    """Run what remains of a sweep that was started, or end its pause. Returns its folder.

    Raises:
        ValueError: there is no sweep, or it is running.
    """
    from gallop_ray.records.stored import open_sweep
    from gallop_ray.sweep.commands import resume_paused
    from gallop_ray.sweep.driver import run_sweep as run

    stored = open_sweep(directory)
    return stored.folder.path if resume_paused(str(directory)) else run(stored.whole(), verbose).path


def status(directory: Directory) -> "SweepStatus":
    """The status of a sweep, with the fields that `gallop-ray status --json` prints.

    Raises:
        ValueError: there is no sweep.
    """
    from gallop_ray.analysis.status import StatusReader
    from gallop_ray.records.stored import open_sweep

    stored = open_sweep(directory)
    return StatusReader(stored.folder, stored.sweep).look()


def pause(directory: Directory) -> None:
    """Let the active runs finish and start no others until `resume`. Raises as `stop`."""
    from gallop_ray.sweep import commands

    commands.pause(str(directory))


def stop(directory: Directory, now: bool = False) -> None:
    """Let the active runs finish, or with `now` only save checkpoints, and end.

    Raises:
        ValueError: there is no sweep, or it is not running.
    """
    from gallop_ray.sweep import commands

    commands.stop(str(directory), now)


def retry(directory: Directory, runs: Sequence[str] = ()) -> None:
    """Queue failed and diverged runs for another try by the next `run_sweep` or `resume`.

    Args:
        runs: `<configuration>` or `<configuration>/seed-<n>`; all that failed or diverged by default.

    Raises:
        ValueError: there is no sweep, it is running, or a run did not fail.
    """
    from gallop_ray.sweep import commands

    commands.retry(str(directory), not runs, runs)


def best(directory: Directory) -> "list[Best]":
    """The best configuration of each method, the overall best first; empty before there is one.

    Raises:
        ValueError: there is no sweep.
    """
    from gallop_ray.analysis.best import best_of_methods
    from gallop_ray.records.stored import open_sweep

    stored = open_sweep(directory)
    return best_of_methods(stored.folder, stored.sweep)


def report(directory: Directory, output: Directory | None = None) -> Path:
    """Write the report, one HTML page, and return its path.

    Args:
        output: the page to write, ending in .html; by default report/report.html in the sweep's folder.

    Raises:
        ValueError: there is no sweep, or `output` does not end in .html.
    """
    from gallop_ray.records.stored import open_sweep
    from gallop_ray.sweep.report import report as write

    stored = open_sweep(directory)
    return write(stored.folder, stored.sweep, None if output is None else str(output))


def export(
    run: Directory,
    to: Literal["delta", "peft", "lora", "merged"],
    output: Directory | None = None,
    rank: int | None = None,
) -> Path:
    """Write a finished run's adapter in a form that other tools load, and return the folder.

    Args:
        run: the run's folder, <output>/<sweep>/<configuration>/seed-<n>.
        to: a delta for apply_adapter, a PEFT folder, a LoRA adapter that approximates the delta, or an ordinary
            transformers folder (merged).
        output: the folder to write; by default <configuration>-seed-<n>-<to> in the working directory.
        rank: of `lora`, by default 16.

    Raises:
        ValueError: the run has not finished, its adapter has no such form, or the folder is not free.
    """
    from gallop_ray.exports.request import checked

    request = checked(str(run), to, None if output is None else str(output), rank)
    from gallop_ray.exports.write import export as write

    return write(request)


def apply_adapter(model: "nn.Module", path: Directory) -> "AppliedAdapter":
    """Apply a run's adapter to its base model; `.remove()` on the returned object restores the base.

    Raises:
        ValueError: the adapter was trained on another base model, or is damaged; the model is unchanged.
    """
    from gallop_ray.sparse.adapter import apply_adapter as apply

    return apply(model, path)


def results(directory: Directory) -> "Results":
    """A DataFrame with one row per run that is over and the columns of results.jsonl; also while the sweep runs.

    Raises:
        ValueError: there is no sweep.
    """
    from gallop_ray.analysis.frame import results_frame
    from gallop_ray.records.stored import open_sweep

    stored = open_sweep(directory)
    return results_frame(stored.folder, stored.sweep)


def statistics(directory: Directory) -> "pd.DataFrame":
    """The spread of each metric over the seeds of a configuration: one row per metric and configuration.

    Columns: configuration, method, stage (a configuration that was confirmed has two), metric, n, mean, std,
    standard_error, low and high (the bootstrap 95 % interval of the mean), worst, worst_seed; docs/statistics.md.

    Raises:
        ValueError: there is no sweep.
    """
    from gallop_ray.analysis.frame import spreads_frame
    from gallop_ray.analysis.statistics import sweep_statistics
    from gallop_ray.records.stored import open_sweep

    stored = open_sweep(directory)
    return spreads_frame(sweep_statistics(stored.folder, stored.sweep).configurations)


def plot_front(of: "Directory | Results", x: str = "forget_ratio", y: str = "id_accuracy") -> "Figure":
    """Two metrics against each other, one point per configuration.

    Args:
        of: a sweep's folder, or its `results`, or some rows of them, as for all figures.

    Raises:
        NothingToDrawError: a ValueError that says what is missing.
        ValueError: there is no sweep.
    """
    from gallop_ray.reporting import figures

    return figures.plot_front(*_drawn_from(of), x, y)


def plot_density(of: "Directory | Results") -> "Figure":
    """Metrics against density, one line per method. Raises as `plot_front`."""
    from gallop_ray.reporting import figures

    return figures.plot_density(*_drawn_from(of))


def plot_learning_rate(of: "Directory | Results", metric: str | None = None) -> "Figure":
    """The objective, or another metric, against the learning rate. Raises as `plot_front`."""
    from gallop_ray.reporting import figures

    return figures.plot_learning_rate(*_drawn_from(of), metric)


def plot_rate_law(of: "Directory | Results") -> "Figure":
    """A heat map of the objective over density and learning rate. Raises as `plot_front`."""
    from gallop_ray.reporting import figures

    return figures.plot_rate_law(*_drawn_from(of))


def plot_seeds(of: "Directory | Results") -> "Figure":
    """One point per seed, for each method's best configuration. Raises as `plot_front`."""
    from gallop_ray.reporting import figures

    return figures.plot_seeds(*_drawn_from(of))


def plot_cost(of: "Directory | Results") -> "Figure":
    """Seconds of a run by phase. Raises as `plot_front`."""
    from gallop_ray.reporting import figures

    return figures.plot_cost(_drawn_from(of)[0])


def plot_loss(of: "Directory | Results") -> "Figure":
    """Training loss of each method's best configuration, one line per seed. Raises as `plot_front`."""
    return _of_the_report(of, "loss")


def plot_masks(of: "Directory | Results") -> "Figure":
    """Where each method trains: density by layer and type of matrix. Raises as `plot_front`."""
    return _of_the_report(of, "masks")


def plot_overlap(of: "Directory | Results") -> "Figure":
    """The Jaccard index of each pair of methods' masks. Raises as `plot_front`."""
    return _of_the_report(of, "overlap")


def plot_importance(of: "Directory | Results") -> "Figure":
    """Each searched parameter's share in the objective's variation. Raises as `plot_front`."""
    return _of_the_report(of, "importance")


def plot_differences(of: "Directory | Results") -> "Figure":
    """The leader's difference to each other method, with 95 % intervals. Raises as `plot_front`."""
    return _of_the_report(of, "differences")


def _folder_of(of: "Directory | Results") -> Directory:
    if isinstance(of, str | Path):
        return of
    directory: Path | None = getattr(of, "directory", None)
    if directory is None:
        raise ValueError("a figure is drawn from a sweep's folder, or from what gallop_ray.results returns of one")
    return directory


def _drawn_from(of: "Directory | Results") -> "tuple[pd.DataFrame, ObjectiveSpec]":
    """The runs to draw, and the objective of their sweep, or the default one for a DataFrame without a sweep."""
    if isinstance(of, str | Path):
        of = results(of)
    from gallop_ray.analysis.frame import runs_in

    if getattr(runs_in(of), "directory", None) is None:
        return of, ObjectiveSpec()
    from gallop_ray.records.stored import open_sweep

    return of, open_sweep(_folder_of(of)).sweep.objective


def _of_the_report(of: "Directory | Results", name: str) -> "Figure":
    """A figure of the report that needs more than the results: always of all runs."""
    from gallop_ray.records.stored import open_sweep
    from gallop_ray.reporting.report.drawings import drawings
    from gallop_ray.reporting.report.material import gather
    from gallop_ray.search.importance import importances

    stored = open_sweep(_folder_of(of))
    folder, sweep = stored.folder, stored.sweep
    shares = importances(folder, sweep) if name == "importance" else {}
    return drawings(gather(folder, sweep, shares))[name].draw()
