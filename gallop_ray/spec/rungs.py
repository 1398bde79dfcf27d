"""The rungs that a sweep's configurations climb: of optimizer steps of their first seed, then of seeds."""

from dataclasses import dataclass

from gallop_ray.spec.configuration import method_named
from gallop_ray.spec.metrics import task_weights
from gallop_ray.spec.plan import configurations_of, seed_rungs, step_rungs
from gallop_ray.spec.schema import Sweep


@dataclass(frozen=True)
class Rung:
    """How far a configuration has come: `seeds` finished, or so many steps, or a share of them, of its first seed."""

    seeds: int
    at: int | float | None = None

    def step(self, steps: int) -> int | None:
        """The optimizer step of a first seed with so many; None for a rung of seeds."""
        if self.at is None or isinstance(self.at, int):
            return self.at
        return max(1, round(self.at * steps))


def climbs(sweep: Sweep) -> bool:
    """Whether configurations pause at rungs of steps."""
    return sweep.pruning.type == "asha" or sweep.pruning.rungs is not None or sweep.resources.interleave > 1


def rungs_of(sweep: Sweep, method_name: str) -> list[Rung]:
    """The rungs of a method's configurations, the last of which is their end.

    One alone that has nothing to be compared with has no other, and so has what does not train.
    """
    if configurations_of(sweep, method_name) == 1 or not method_named(sweep, method_name).trains:
        return [Rung(len(sweep.seeds))]
    return [*(Rung(0, at) for at in step_rungs(sweep)), *(Rung(count) for count in seed_rungs(sweep))]


def rung_weights(sweep: Sweep) -> dict[str, float]:
    """The weight of each task's loss at a rung of steps: as in the objective, their sum 1.

    Of an objective that is no weighted sum of tasks, that of the task trained on alone.
    """
    task, ood = sweep.data.train_tasks[0], list(sweep.data.rounds[0].ood)
    weights = {name: abs(w) for name, w in task_weights(sweep.objective.racing.metric, task, ood, 1.0).items()} or {
        task: 1.0
    }
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}
