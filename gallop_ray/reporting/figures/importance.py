"""Which searched parameters matter."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from gallop_ray.errors import NothingToDrawError
from gallop_ray.reporting.figures.style import method_styles, panels, styled


@styled
def plot_importance(importances: Mapping[str, Mapping[str, float]]) -> Figure:
    """Each searched parameter's share in the objective's variation: one panel per method.

    Args:
        importances: shares by method and parameter, from `gallop_ray.search.importance`.

    Raises:
        NothingToDrawError: where there are none.
    """
    if not importances:
        raise NothingToDrawError("no method has importances")
    look = method_styles(importances)
    tallest = max(map(len, importances.values()))
    figure, axes = panels(len(importances), 2, 0.7 + 0.25 * tallest, sharex=True)
    for each, (method, shares) in zip(axes, importances.items(), strict=True):
        names = sorted(shares, key=shares.__getitem__)
        each.barh(range(len(names)), [100 * shares[name] for name in names], color=look[method].colour, height=0.6)
        each.set_yticks(range(len(names)), names)
        each.set_xlim(0, 100)
        each.set_title(method)
        each.grid(axis="y", visible=False)
    figure.supxlabel("importance (%)", size=9)
    return figure
