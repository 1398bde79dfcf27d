"""Figures can be read: their axes have ticks, whatever the range of what they show."""

import itertools
import math

import pandas as pd
import pytest
from matplotlib.axis import Axis

from gallop_ray.errors import NothingToDrawError
from gallop_ray.reporting.figures import plot_loss, plot_rate_law
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


def test_a_rate_law_is_drawn_over_what_was_tried() -> None:
    rows = []
    for place, (density, exponent) in enumerate(itertools.product((0.001, 0.01, 0.1), (-4, -3.5, -3, -2.5, -2))):
        rate, best = 10**exponent, 1e-4 * density**-0.5
        value = 0.6 - 0.03 * math.log(rate / best) ** 2
        rows.append(
            {
                "configuration": f"gallop-{place:08x}",
                "method": "gallop",
                "seed": 0,
                "status": "finished",
                "stage": "search",
                "density": density,
                "learning_rate": rate,
                "val_mean_accuracy": value,
            }
        )
    figure = plot_rate_law(pd.DataFrame(rows))
    axes, bar = figure.axes
    (line,) = axes.lines
    across, up = line.get_data()
    assert [float(each) for each in up] == pytest.approx([1e-4 * (each / 100) ** -0.5 for each in across])
    assert len(labels(axes.xaxis)) >= 2
    assert len(labels(axes.yaxis)) >= 2
    assert "%" in bar.get_ylabel()
    with pytest.raises(NothingToDrawError, match="density and learning rate"):
        plot_rate_law(pd.DataFrame(rows[:9]))
