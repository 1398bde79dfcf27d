"""Figures can be read: their axes have ticks, whatever the range of what they show."""

import pandas as pd
import pytest
from matplotlib.axis import Axis

from gallop_ray.reporting.figures import plot_loss
from gallop_ray.reporting.figures.style import label_log_axis, new_figure


def labels(axis: Axis) -> list[str]:
    """The labels that stand on the axis."""
    axis.figure.draw_without_rendering()
    low, high = sorted(axis.get_view_interval())
    ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
    return [label.get_text() for place, label in ticks if low <= place <= high]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.1, 3.3], None),  # between two of 1, 2 and 5 of a decade
        ([1.7, 6.0], ["2", "5"]),
        ([0.0002, 0.0008], ["0.0002", "0.0005"]),
        ([1e-4, 3e-2], 3),
        ([1e-12, 1e8], None),
    ],
)
def test_a_logarithmic_axis_has_labelled_ticks(values: list[float], expected: list[str] | int | None) -> None:
    axes = new_figure(2).subplots()
    axes.plot(values, values)
    axes.set_xscale("log")
    label_log_axis(axes.xaxis)
    found = labels(axes.xaxis)
    assert 2 <= len(found) <= 8
    assert "" not in found
    if isinstance(expected, list):
        assert found == expected
    elif expected is not None:
        assert len(found) == expected


def test_losses_within_one_power_of_ten_have_ticks_and_steps_are_whole() -> None:
    rows = [("gallop", "gallop-00000000", seed, step, 4.0 - 0.05 * step) for seed in (0, 1) for step in range(1, 17)]
    figure = plot_loss(pd.DataFrame(rows, columns=["method", "configuration", "seed", "step", "loss"]))
    (axes,) = figure.axes
    assert len(labels(axes.yaxis)) >= 2
    steps = labels(axes.xaxis)
    assert len(steps) >= 3
    assert all(each.isdecimal() for each in steps), steps
