"""When to stop a configuration before all its seeds have run. Goes by run records, on validation data only."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from gallop_ray.spec.schema import ObjectiveSpec, PruningSpec
from gallop_ray.tracking.summary import objective_value


def reason_to_prune(
    pruning: PruningSpec,
    objective: ObjectiveSpec,
    mine: Sequence[Mapping[str, Any]],
    others: Sequence[Sequence[Mapping[str, Any]]],
) -> str | None:
    """Why a configuration with these finished runs should stop; None where it should go on.

    mine: its results so far. others: for each other configuration of the same method, its results. Those with as many
    seeds count, over that many seeds.
    """
    done = len(mine)
    compared = [objective_value(runs[:done], objective) for runs in others if len(runs) >= done]
    comparable = [value for value in compared if value is not None]
    if pruning.type == "none" or done < pruning.after_seeds or len(comparable) < pruning.after_configurations:
        return None
    value, middle = objective_value(mine, objective), median(comparable)
    if value is None:
        return None
    worse = value < middle if objective.maximize else value > middle
    if not worse:
        return None
    return f"{objective.metric} {value:.4f} after {done} seeds; the median of {len(comparable)} others is {middle:.4f}"
