"""Figures: functions from the runs of a sweep to matplotlib Figures, which are not registered with pyplot.

Frames have one row per run and the columns of results.jsonl (`gallop_ray.analysis.frame.results_frame`).
"""

from gallop_ray.reporting.figures.cost import plot_cost
from gallop_ray.reporting.figures.density import plot_density
from gallop_ray.reporting.figures.differences import plot_differences
from gallop_ray.reporting.figures.front import plot_front
from gallop_ray.reporting.figures.importance import plot_importance
from gallop_ray.reporting.figures.learning_rate import plot_learning_rate
from gallop_ray.reporting.figures.loss import loss_frame, plot_loss
from gallop_ray.reporting.figures.masks import plot_masks, plot_overlap
from gallop_ray.reporting.figures.rate_law import plot_rate_law
from gallop_ray.reporting.figures.seeds import plot_seeds

__all__ = [
    "loss_frame",
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
]
