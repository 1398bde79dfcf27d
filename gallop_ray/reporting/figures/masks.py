"""Where in the model each method trains, and how much masks have in common."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from gallop_ray.errors import NothingToDrawError
from gallop_ray.reporting.figures.style import INK, MUTED, new_figure, panels, styled

_COLOURS = "cividis"  # tells its values apart for colour-blind readers, and printed in grey
_COLUMNS, _LAYER_LABELS = 4, 12


@styled
def plot_masks(masks: Sequence[Mapping[str, Any]]) -> Figure:
    """Density by layer and module type: one panel per configuration, the mean over its seeds; all on one scale.

    Args:
        masks: `runs` of masks.json.

    Raises:
        NothingToDrawError: where there is none.
    """
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for mask in masks:
        found[mask["configuration"]].append(mask)
    if not found:
        raise NothingToDrawError("no method has chosen a mask")
    tallest = max(len(of_it[0]["layers"]) for of_it in found.values())
    figure, axes = panels(len(found), _COLUMNS, 1.3 + 0.085 * tallest)
    shares = {key: 100 * _mean([mask["density"] for mask in of_it]) for key, of_it in found.items()}
    # On a square-root scale: next to a concentrated mask, one that is spread out would look uniform.
    scale = PowerNorm(0.5, 0, max(float(np.nanmax(share)) for share in shares.values()))
    for each, (key, of_it) in zip(axes, found.items(), strict=True):
        image = each.imshow(shares[key], aspect="auto", cmap=_COLOURS, norm=scale, interpolation="none")
        _label(each, of_it[0])
    bar = figure.colorbar(image, ax=axes, label="density (%)", fraction=0.03, aspect=30)
    bar.outline.set_visible(False)
    return figure


def _mean(densities: Sequence[Sequence[Sequence[float | None]]]) -> Any:
    """The mean over seeds; shape (layers, module types), NaN where the model has no such matrix."""
    return np.mean([np.array(each, dtype=float) for each in densities], axis=0)


def _label(axes: Axes, mask: Mapping[str, Any]) -> None:
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title(mask["method"])
    axes.set_xticks(range(len(mask["modules"])), mask["modules"], rotation=60, ha="right", rotation_mode="anchor")
    every = math.ceil(len(mask["layers"]) / _LAYER_LABELS)
    axes.set_yticks(range(0, len(mask["layers"]), every), mask["layers"][::every])
    axes.tick_params(length=0, labelsize=7)


@styled
def plot_overlap(pairs: Sequence[Mapping[str, Any]]) -> Figure:
    """The Jaccard index of each pair of methods' masks, the mean over seeds, in percent.

    Args:
        pairs: `overlap.methods` of masks.json.

    Raises:
        NothingToDrawError: with fewer than three methods.
    """
    methods = list(dict.fromkeys(name for pair in pairs for name in pair["methods"]))
    if len(methods) < 3:  # a single number needs no figure
        raise NothingToDrawError("fewer than three methods have masks at the same seed")
    shared: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for pair in pairs:
        shared[tuple(pair["methods"])].append(pair["jaccard"])
    grid = np.full((len(methods), len(methods)), np.nan)
    for (one, other), seen in shared.items():
        row, column = sorted((methods.index(one), methods.index(other)), reverse=True)
        grid[row, column] = 100 * float(np.mean(seen))
    size = 1.4 + 0.42 * len(methods)
    figure = new_figure(size * 0.82, min(size, 7.2))
    axes = figure.subplots()
    axes.imshow(grid[1:, :-1], cmap=_COLOURS, vmin=0, vmax=max(float(np.nanmax(grid)), 1e-9), interpolation="none",
                aspect="auto")  # fmt: skip
    _write_numbers(axes, grid[1:, :-1])
    axes.set_xticks(range(len(methods) - 1), methods[:-1], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(methods) - 1), methods[1:])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=MUTED, labelcolor=INK)
    return figure


def _write_numbers(axes: Axes, grid: Any) -> None:
    middle = np.nanmax(grid) / 2
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            colour = "#fffffd" if value < middle else "#000001"  # on the cell's own colour, in every mode
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", size=7.5, color=colour)
