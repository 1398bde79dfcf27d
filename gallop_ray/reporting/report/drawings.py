"""The figures of the report: a one-sentence description of each, and how it is drawn."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from gallop_ray.errors import NothingToDrawError
from gallop_ray.reporting.figures import (
    loss_frame,
    plot_cost,
    plot_density,
    plot_differences,
    plot_front,
    plot_importance,
    plot_learning_rate,
    plot_loss,
    plot_masks,
    plot_overlap,
    plot_rate_law,
    plot_seeds,
)
from gallop_ray.reporting.figures.front import learnt_and_forgotten
from gallop_ray.reporting.report.comparisons import with_the_leader
from gallop_ray.reporting.report.material import ReportData
from gallop_ray.reporting.report.svg import RenderedFigure, write_figure
from gallop_ray.spec.metrics import display_name, larger_is_better

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FigureSpec:
    """A figure before it is drawn."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class PageFigure:
    """A figure on the page."""

    name: str
    title: str
    caption: str
    drawn: RenderedFigure


def drawings(material: ReportData) -> dict[str, FigureSpec]:
    """All figures by name, whether or not the sweep has the data for them."""
    return {drawing.name: drawing for drawing in (*_of_results(material), *_of_what_lies_behind(material))}


def _of_results(material: ReportData) -> list[FigureSpec]:
    frame, objective = material.frame, material.sweep.objective
    by = display_name(objective.metric)
    forgotten, learnt = learnt_and_forgotten(frame)
    return [
        FigureSpec(
            "differences",
            "The leader and the others",
            f"The leader's {display_name(material.statistics.metric)} minus each other method's, with 95 % intervals:"
            " a blue circle is a difference that holds after correction for the number of comparisons, a grey square "
            "one that does not; the intervals themselves are not corrected.",
            lambda: plot_differences(with_the_leader(material)),
        ),
        FigureSpec(
            "density",
            "Accuracy and forgetting against density",
            f"At each density the method's best configuration by {by}: lines are means over seeds, bands and bars one "
            "standard deviation, on test sets; methods with one density are single points.",
            lambda: plot_density(frame, objective),
        ),
        FigureSpec(
            "front",
            "Learning against forgetting",
            f"{display_name(learnt)} against {display_name(forgotten)} on test sets: small points are the means of all "
            "configurations, large ones each method's best with bars of one standard deviation over seeds, and the "
            "dashed line joins the configurations that no other beats in both. Better is "
            f"{'up' if larger_is_better(learnt) else 'down'} and to the "
            f"{'right' if larger_is_better(forgotten) else 'left'}.",
            lambda: plot_front(frame, objective, forgotten, learnt),
        ),
        FigureSpec(
            "learning_rate",
            "Sensitivity to the learning rate",
            f"{by[0].upper()}{by[1:]} against the learning rate: one point per run, the line through the means over "
            "seeds of the best configuration at each rate.",
            lambda: plot_learning_rate(frame, objective),
        ),
        FigureSpec(
            "rate_law",
            "Learning rate and density together",
            f"{by[0].upper()}{by[1:]} over density and learning rate: points are configurations, the mean over their "
            "seeds; the colours between them are a quadratic surface fitted to them, and the dashed line its best "
            "learning rate at each density.",
            lambda: plot_rate_law(frame, objective),
        ),
        FigureSpec(
            "importance",
            "Importance of what was searched",
            "Each parameter's share of the variation of the objective within its method's study, by PED-ANOVA; there "
            "are no error bars.",
            lambda: plot_importance(material.importances),
        ),
    ]


def _of_what_lies_behind(material: ReportData) -> list[FigureSpec]:
    frame, methods = material.frame, material.frame["method"]
    return [
        FigureSpec(
            "masks",
            "Where each method trains",
            "Density by layer (rows) and type of matrix (columns), the mean over the seeds of each method's best "
            "configuration; the colour scale is that of the square root and is the same in all panels.",
            lambda: plot_masks(material.masks()),
        ),
        FigureSpec(
            "overlap",
            "What masks have in common",
            "Entries in both masks over entries in either (Jaccard index) for the best configurations of each pair "
            "of methods at the same seed, in percent, the mean over seeds.",
            lambda: plot_overlap(material.overlap()),
        ),
        FigureSpec(
            "loss",
            "Training loss",
            "Training loss of each method's best configuration, one line per seed.",
            lambda: plot_loss(loss_frame(material.best_runs()), methods),
        ),
        FigureSpec(
            "seeds",
            "Seed by seed",
            "Each method's best configuration on test sets: one point per seed, the stroke at their mean.",
            lambda: plot_seeds(frame, material.sweep.objective),
        ),
        FigureSpec(
            "cost",
            "Seconds by phase",
            "Mean seconds of a method's finished runs, by phase; there are no error bars.",
            lambda: plot_cost(frame),
        ),
    ]


def drawn(found: dict[str, FigureSpec], folder: Path) -> dict[str, PageFigure]:
    """Draw what can be drawn into the folder."""
    return {name: PageFigure(name, each.title, each.caption, done) for name, each, done in _drawn(found, folder)}


def _drawn(found: dict[str, FigureSpec], folder: Path) -> Iterator[tuple[str, FigureSpec, RenderedFigure]]:
    for name, drawing in found.items():
        if figure := _figure(drawing):
            yield name, drawing, write_figure(figure, folder, name, drawing.title)


def _figure(drawing: FigureSpec) -> Figure | None:
    """Draw a figure, or None: a record that is damaged or of another version costs its figure, not the page."""
    try:
        return drawing.draw()
    except NothingToDrawError as why:
        _LOG.debug("no figure %s: %s", drawing.name, why)
    except Exception as error:
        _LOG.warning("no figure %s (%s: %s)", drawing.name, type(error).__name__, error)
    return None
