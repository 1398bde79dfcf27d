"""All metrics that are computed from scores of tasks, in one table: definition, direction, name and display.

Search, pruning, verdict, tables, figures and MLflow read it; nothing about a metric is defined elsewhere. A sweep may
name more of them in evaluation.metrics. docs/metrics.md defines those of this table.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from gallop_ray.spec.plugins import installed, is_reference, load_installed, load_object
from gallop_ray.spec.problems import did_you_mean

GROUP = "gallop_ray.metrics"
"""The entry points by which a package offers metrics: `name = "module:object"`, an object of class Metric."""
COLLAPSED_BELOW = 0.01
TEXT_LOSS = "text_loss"
_SHARE = (0.0, 1.0)
_LOSS = (0.0, math.inf)
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Scores:
    """What one model reaches on one split, measured in one way: shares in [0, 1], losses or margins.

    None where it was not measured.
    """

    id: float | None
    """On the task trained on."""
    ood: Mapping[str, float | None] = field(default_factory=dict)
    """On each other task."""

    @property
    def mean_ood(self) -> float | None:
        """The mean over the other tasks; None where there are none or one was not measured."""
        return _mean([*self.ood.values()])


Value = Callable[[Scores, Scores], float | None]
"""Computes a value from the scores of the tuned and of the base model; None where undefined."""
Of = Literal["share", "loss", "margin"]
Weights = Callable[[float], tuple[float, float] | None]
"""From the base model's OOD accuracy, the weights of the ID accuracy and the mean OOD accuracy in the metric."""


@dataclass(frozen=True)
class Metric:
    """A metric: `<name>` on test sets by likelihood, `<name>_generated` by generation, `val_<name>` on validation sets.

    weights: of a metric that is a weighted sum of accuracies, up to a constant; pruning and intervals then compare
    example by example. on_tests: whether runs record it of test sets, too.
    """

    name: str
    label: str
    """The display name, in lower case unless it is an abbreviation."""
    value: Value
    larger_is_better: bool = True
    heading: str = ""
    """The heading of a table's column; by default the label."""
    note: str = ""
    """Additional text for the column's heading."""
    needs_ood: bool = True
    """Whether it involves tasks other than the one trained on."""
    of_base: bool = False
    """Whether it is a change from the base model."""
    without_ood: bool = False
    """Whether one that involves other tasks is made without them, where a sweep has none."""
    weights: Weights | None = None
    on_tests: bool = True
    bounds: tuple[float, float] | None = None
    """The range of its values, if known; a record with a value outside is damaged."""
    of: Of = "share"
    """What it is made of and its own unit: shares of 1, shown in percent; losses or margins, in nats."""

    @property
    def column(self) -> str:
        """The heading of its column."""
        return self.heading or self.label


def forget_ratio(base: float | None, tuned: float | None) -> float | None:
    """max(0, (base - tuned) / base) of two OOD accuracies (GaLLoP, arXiv 2510.19778); None where the base has 0."""
    if base is None or tuned is None or base == 0:
        return None
    return max(0.0, (base - tuned) / base)


def loss_increase(base: float | None, tuned: float | None) -> float | None:
    """What the tuned model loses: the difference of two losses, negative where it gains; None where one is missing."""
    return None if base is None or tuned is None else tuned - base


def collapse_rate(scores: Scores) -> float | None:
    """Share of OOD accuracies below COLLAPSED_BELOW; None where there are none, or one was not measured."""
    known = [each for each in scores.ood.values() if each is not None]
    return fmean(each < COLLAPSED_BELOW for each in known) if known and len(known) == len(scores.ood) else None


def _mean_of_both(tuned: Scores, base: Scores) -> float | None:
    """The mean of ID and mean OOD score; the ID score where there are no other tasks."""
    return _mean([tuned.id, tuned.mean_ood]) if tuned.ood else tuned.id


def _mean(values: list[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return fmean(known) if known and len(known) == len(values) else None


_TABLE = (
    Metric(
        name="id_accuracy",
        label="ID accuracy",
        value=lambda tuned, base: tuned.id,
        heading="ID",
        note="on the task trained on",
        needs_ood=False,
        bounds=_SHARE,
        weights=lambda base: (1.0, 0.0),
    ),
    Metric(
        name="ood_accuracy",
        label="OOD accuracy",
        value=lambda tuned, base: tuned.mean_ood,
        heading="OOD",
        note="mean over the other tasks",
        bounds=_SHARE,
        weights=lambda base: (0.0, 1.0),
    ),
    Metric(
        name="forget_ratio",
        label="forget ratio",
        value=lambda tuned, base: forget_ratio(base.mean_ood, tuned.mean_ood),
        of_base=True,
        larger_is_better=False,
        heading="Forget",
        note="share of the base model's OOD accuracy that was lost",
        bounds=_SHARE,
        weights=lambda base: (0.0, -1 / base) if base else None,  # but for its floor at 0
    ),
    Metric(
        name="collapse_rate",
        label="collapse rate",
        value=lambda tuned, base: collapse_rate(tuned),
        larger_is_better=False,
        heading="Collapse",
        note="share of OOD test sets below 1 %",
        bounds=_SHARE,
    ),
    Metric(
        name="mean_accuracy",
        label="mean of ID and OOD accuracy",
        value=lambda tuned, base: _mean([tuned.id, tuned.mean_ood]),
        heading="mean",
        bounds=_SHARE,
        weights=lambda base: (0.5, 0.5),
        on_tests=False,
    ),
    Metric(
        name="id_loss",
        label="ID loss",
        value=lambda tuned, base: tuned.id,
        larger_is_better=False,
        note="mean loss of an answer of the task trained on, in nats",
        needs_ood=False,
        bounds=_LOSS,
        weights=lambda base: (1.0, 0.0),
        of="loss",
    ),
    Metric(
        name="ood_loss",
        label="OOD loss",
        value=lambda tuned, base: tuned.mean_ood,
        larger_is_better=False,
        note="mean over the other tasks, in nats",
        bounds=_LOSS,
        weights=lambda base: (0.0, 1.0),
        of="loss",
    ),
    Metric(
        name="ood_loss_increase",
        label="increase of OOD loss",
        value=lambda tuned, base: loss_increase(base.mean_ood, tuned.mean_ood),
        of_base=True,
        larger_is_better=False,
        heading="Increase",
        note="of the OOD loss over the base model's",
        weights=lambda base: (0.0, 1.0),
        of="loss",
    ),
    Metric(
        name="answer_loss",
        label="loss of the right answers",
        value=_mean_of_both,
        larger_is_better=False,
        heading="Loss",
        without_ood=True,
        bounds=_LOSS,
        weights=lambda base: (0.5, 0.5),
        on_tests=False,
        of="loss",
    ),
    Metric(
        name="margin",
        label="margin of the right answers",
        value=_mean_of_both,
        heading="Margin",
        without_ood=True,
        weights=lambda base: (0.5, 0.5),
        on_tests=False,
        of="margin",
    ),
    Metric(
        name=TEXT_LOSS,
        label="text loss",
        value=lambda tuned, base: None,  # made of no task; runs record it of general text
        larger_is_better=False,
        note="of general text, in nats per token",
        needs_ood=False,
        bounds=_LOSS,
        on_tests=False,
        of="loss",
    ),
)
BUILT_IN: Mapping[str, Metric] = {each.name: each for each in _TABLE}
_OBJECTIVES = (
    *("mean_accuracy", "id_accuracy", "ood_accuracy", "forget_ratio"),
    *("id_loss", "ood_loss", "ood_loss_increase", "answer_loss", "margin", TEXT_LOSS),
)
_SMALLER = ("forget", "collapse", "memori", "loss", "perplexity", "entropy", "seconds", "memory")
_LARGER = ("accuracy", "parseable", "per_second")
_OF_A_TASK = re.compile(r"tasks[_/].*_(test|validation)_loss")
_declared: dict[str, Metric] = {}


def metrics() -> Iterator[Metric]:
    """The metrics of the table, then those that a sweep of this process has named."""
    yield from BUILT_IN.values()
    yield from _declared.values()


def test_metrics() -> list[Metric]:
    """The metrics that runs record on test sets."""
    return [each for each in metrics() if each.on_tests]


def compared() -> tuple[str, ...]:
    """Those of test sets that methods are compared by, example by example: what was learnt, what was forgotten."""
    return tuple(name for name, each in BUILT_IN.items() if each.on_tests and each.weights is not None)


def declare(name: str) -> Metric:
    """Add the metric that a sweep names to those of this process. Raises ValueError as `named` does."""
    found = named(name)
    _declared[found.name] = found
    return found


def named(name: str) -> Metric:
    """A metric that an installed package offers, or `module:object`. Raises ValueError where there is none."""
    if not is_reference(name) and name not in installed(GROUP):
        known = installed(GROUP)
        raise ValueError(
            f"no installed package offers a metric {name!r}{did_you_mean(name, known)}; give module:object of your own"
        )
    found = load_object(name) if is_reference(name) else load_installed(GROUP, name)
    if not isinstance(found, Metric):
        raise ValueError(f"{name} is {found!r:.60}, which is no gallop_ray.spec.metrics.Metric")
    if found.name in BUILT_IN or not found.name.isidentifier() or found.name.startswith("val_"):
        raise ValueError(
            f"{name} has the name {found.name!r}; a metric needs a name of its own, such as retained_share"
        )
    return found


def declare_known(metric: Metric) -> None:
    """Add one that is known from records alone; code that this process has seen counts more."""
    _declared.setdefault(metric.name, metric)


def find(name: str) -> Metric | None:
    """The metric of a recorded name: forget_ratio for `val_forget_ratio` and `forget_ratio_generated`."""
    plain = name.removeprefix("val_").removesuffix("_generated")
    return BUILT_IN.get(plain) or _declared.get(plain)


def possible(name: str, value: float) -> bool:
    """Whether a recorded metric can have this value."""
    metric = find(name)
    if metric is None or metric.bounds is None:
        return True
    low, high = metric.bounds
    return low - _ROUNDING <= value <= high + _ROUNDING


def objectives() -> list[str]:
    """The names of possible objectives, without metrics that a sweep declares."""
    return [f"val_{name}" for name in _OBJECTIVES]


def larger_is_better(name: str) -> bool | None:
    """Whether a larger value of a recorded number is better; None where neither is (a density)."""
    if name.startswith("tasks/"):  # shares or losses, named by the task alone
        return made_of(name) == "share"
    if (metric := find(name)) is not None:
        return metric.larger_is_better
    if any(part in name for part in _SMALLER):
        return False
    return True if any(part in name for part in _LARGER) else None


def maximized(objective: str) -> bool:
    """Whether a larger value of an objective is better. Raises ValueError for a metric that is not known here."""
    metric = find(objective)
    if metric is None:
        raise ValueError(f"{objective} is no metric that is known here; name it in evaluation.metrics")
    return metric.larger_is_better


def display_name(name: str) -> str:
    """The display name of a recorded name."""
    metric, generated = find(name), " by generation" * name.endswith("_generated")
    if metric is None:
        return name.removesuffix("_generated").replace("_", " ") + generated
    if not name.startswith("val_"):
        return metric.label + generated
    return "validation mean of ID and OOD" if metric.name == "mean_accuracy" else f"validation {metric.label}"


def made_of(name: str) -> Of:
    """What a metric is made of: shares, losses or margins."""
    metric = find(name)
    if metric is None:
        return "loss" if _OF_A_TASK.fullmatch(name) else "share"
    return metric.of


def scale_of(name: str) -> float:
    """What a metric's values are multiplied by where they are shown: shares are shown in percent."""
    return 100.0 if made_of(name) == "share" else 1.0


def unit_of(name: str, difference: bool = False) -> str:
    """The unit in which a metric, or a difference of two of its values, is shown."""
    if made_of(name) != "share":
        return "nats"
    return "points" if difference else "%"


def shown_value(name: str, value: float, std: float | None = None, sign: str = "", between: str = "±") -> str:
    """A metric's value as it is shown, without its unit: 52.3 for a share, 1.234 for a loss."""
    scale = scale_of(name)
    digits = 1 if scale > 1 else 3
    deviation = "" if std is None else f"{between}{scale * std:.{digits}f}"
    return f"{scale * value:{sign}.{digits}f}{deviation}"


def task_weights(name: str, task: str, ood: list[str], base: float | None) -> dict[str, float]:
    """The weight of each task's accuracy in a metric, up to a constant; empty for one that is not a sum of accuracies.

    base: the base model's mean OOD accuracy, if known.
    """
    metric = find(name)
    weights = None if metric is None or metric.weights is None else metric.weights(base or 0.0)
    if metric is None or weights is None:
        return {}
    if metric.without_ood and not ood:  # then it is the task's own score, whole
        return {task: 1.0}
    mine, others = weights
    return {**({task: mine} if mine else {}), **({each: others / len(ood) for each in ood} if others else {})}
