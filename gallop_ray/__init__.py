"""Distributed sweeps of sparse fine-tuning of language models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gallop_ray.api import load_sweep as load_sweep
    from gallop_ray.api import plot_differences as plot_differences
    from gallop_ray.api import plot_importance as plot_importance
    from gallop_ray.api import plot_loss as plot_loss
    from gallop_ray.api import plot_masks as plot_masks
    from gallop_ray.api import plot_overlap as plot_overlap
    from gallop_ray.api import results as results
    from gallop_ray.api import run_sweep as run_sweep
    from gallop_ray.api import statistics as statistics
    from gallop_ray.reporting.figures import plot_cost as plot_cost
    from gallop_ray.reporting.figures import plot_density as plot_density
    from gallop_ray.reporting.figures import plot_front as plot_front
    from gallop_ray.reporting.figures import plot_learning_rate as plot_learning_rate
    from gallop_ray.reporting.figures import plot_seeds as plot_seeds
    from gallop_ray.sparse.adapter import apply_adapter as apply_adapter

__version__ = "0.1.0"
_HOMES = {
    "apply_adapter": "gallop_ray.sparse.adapter",
    **dict.fromkeys(("load_sweep", "run_sweep", "results", "statistics"), "gallop_ray.api"),
    **dict.fromkeys(
        ("plot_cost", "plot_density", "plot_front", "plot_learning_rate", "plot_seeds"), "gallop_ray.reporting.figures"
    ),
    **dict.fromkeys(
        ("plot_differences", "plot_importance", "plot_loss", "plot_masks", "plot_overlap"), "gallop_ray.api"
    ),
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Each when it is asked for: importing gallop_ray must not import torch, Ray or matplotlib."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
