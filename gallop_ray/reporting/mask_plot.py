"""Figures of masks: density by layer and module type, and the magnitudes of the chosen entries."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gallop_ray.records.files import Record

_COLOURS = "cividis"  # tells its values apart for colour-blind readers, and printed in grey
_PANEL_INCHES = 3.6
_COLUMNS = 5
_LAYER_LABELS = 16


def draw_masks(runs: Sequence[Record], path: Path) -> None:
    """Write the figure of these runs of masks.json, atomically."""
    draft = path.with_name(f".{path.name}.tmp")
    masks_figure(runs).savefig(draft, format="png", dpi=150)
    draft.replace(path)


def masks_figure(runs: Sequence[Record]) -> Figure:
    """One panel per configuration: the mean density over seeds; below, where recorded, the first seed's magnitudes."""
    panels: dict[str, list[Record]] = defaultdict(list)
    for run in runs:
        panels[run["configuration"]].append(run)
    columns = min(len(panels), _COLUMNS)
    bands = math.ceil(len(panels) / columns)
    rows = 2 if any("magnitudes" in run for run in runs) else 1
    tallest = max(len(run["layers"]) for run in runs)
    heights = [max(2.8, 0.16 * tallest), 2.4][:rows]
    figure = Figure(figsize=(_PANEL_INCHES * columns, bands * (sum(heights) + 1.2)), layout="constrained")
    axes = figure.subplots(rows * bands, columns, squeeze=False, height_ratios=heights * bands)
    for unused in axes.flat:
        unused.set_axis_off()
    for number, seeds in enumerate(panels.values()):
        row, column = rows * (number // columns), number % columns
        _density_panel(axes[row, column], seeds)
        if rows == 2:
            _magnitude_panel(axes[row + 1, column], next((run for run in seeds if "magnitudes" in run), None))
    return figure


def _density_panel(axes: Axes, seeds: Sequence[Record]) -> None:
    axes.set_axis_on()
    first = seeds[0]
    count, rounds = len({run["seed"] for run in seeds}), ", mean of rounds" if "round" in first else ""
    percent = 100 * np.mean([np.array(run["density"], dtype=float) for run in seeds], axis=0)
    image = axes.imshow(percent, aspect="auto", cmap=_COLOURS, vmin=0, interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, label="density (%)")
    axes.set_title(f"{first['method']}\n{first['configuration']}, {count} seed{'s' * (count > 1)}{rounds}", size=9)
    axes.set_xticks(range(len(first["modules"])), first["modules"], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_ylabel("layer")
    labelled = range(0, len(first["layers"]), math.ceil(len(first["layers"]) / _LAYER_LABELS))
    axes.set_yticks(labelled, [first["layers"][row] for row in labelled])


def _magnitude_panel(axes: Axes, run: Record | None) -> None:
    if run is None:
        return
    axes.set_axis_on()
    recorded: Mapping[str, Any] = run["magnitudes"]
    edges = np.array(recorded["edges"], dtype=float)
    for name, line in (("all", "--"), ("chosen", "-")):
        counts = np.array(recorded[name], dtype=float)
        axes.stairs(100 * counts / max(counts.sum(), 1), edges, label=name, linestyle=line, linewidth=1.5)
    if edges[0] > 0:
        axes.set_xscale("log")
    axes.set_xlabel("magnitude of the base weight")
    axes.set_ylabel("entries (%)")
    axes.legend(frameon=False)
