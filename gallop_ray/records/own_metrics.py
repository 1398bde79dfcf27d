"""What a sweep's records say of its own metrics, for readers that do not have their code."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.records.code import use_code
from gallop_ray.records.files import read_json, write_json
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.metrics import Metric, Weights, declare, declare_known
from gallop_ray.spec.schema import Sweep

_FILE = "metrics.json"
_AS_THEY_ARE = (
    *("label", "larger_is_better", "heading", "note", "needs_ood"),
    *("of_base", "without_ood", "on_tests", "of"),
)


def keep_metrics(folder: SweepFolder, sweep: Sweep) -> None:
    """Store the facts about a sweep's own metrics."""
    if sweep.evaluation.metrics:
        write_json(folder.path / _FILE, dict(map(_facts, map(declare, sweep.evaluation.metrics))))


def use_metrics(folder: SweepFolder, names: Sequence[str] = ()) -> None:
    """Declare a sweep's own metrics from the stored facts, without their code; those of `names` with it if it is there.

    A reader gives no names: to look at records must not run what lies beside them.
    """
    if names:
        use_code(folder)
    for name in names:
        with suppress(ValueError):  # a node without the package: the facts will do
            declare(name)
    for name, facts in _stored(folder.path / _FILE).items():
        declare_known(_metric(name, facts))


def _stored(path: Path) -> dict[str, dict[str, Any]]:
    """The facts by metric; without those that are damaged, which is said once."""
    try:
        found = read_json(path) or {}
    except Damaged as error:
        note_damage(path, error.reason, "the sweep's own metrics are left out")
        return {}
    whole = {
        name: each for name, each in found.items() if isinstance(each, dict) and isinstance(each.get("label"), str)
    }
    for name in found.keys() - whole.keys():
        note_damage(path, f"does not say what {name} is", "it is left out")
    return whole


def _facts(metric: Metric) -> tuple[str, dict[str, Any]]:
    # JSON has no infinity.
    bounds = metric.bounds if metric.bounds is not None and all(map(math.isfinite, metric.bounds)) else None
    facts = {each: getattr(metric, each) for each in _AS_THEY_ARE}
    return metric.name, {**facts, "bounds": bounds, "weights": _constant(metric.weights)}


def _metric(name: str, facts: Mapping[str, Any]) -> Metric:
    """One that is displayed and compared, not computed. Facts that this version does not know are left out."""
    bounds, weights = facts.get("bounds"), facts.get("weights")
    return Metric(
        name=name,
        value=lambda tuned, base: None,
        bounds=None if bounds is None else tuple(bounds),
        weights=None if weights is None else partial(_always, tuple(weights)),
        **{each: facts[each] for each in _AS_THEY_ARE if each in facts},
    )


def _constant(weights: Weights | None) -> tuple[float, float] | None:
    """Weights that are the same for any base model, which a record can hold; None for others."""
    if weights is None:
        return None
    try:
        found = [weights(base) for base in (0.25, 0.5, 0.75)]
    except Exception:  # of the user's own code: then it goes by the base model
        return None
    return found[0] if found.count(found[0]) == len(found) else None


def _always(weights: tuple[float, float], base: float) -> tuple[float, float]:
    return weights
