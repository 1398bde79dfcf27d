"""The examples whose gradients say which weights `training.ewc` holds (`data.fisher`)."""

from typing import Any

from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.encode import Encoded
from gallop_ray.tasks.examples import TaskData
from gallop_ray.tasks.lengths import fitted
from gallop_ray.tasks.load import load_task


def load_fisher(sweep: Sweep) -> TaskData | None:
    """Training examples of the task that is to be kept; None where the sweep names none.

    Raises ValueError where the task has fewer than asked for.
    """
    data, asked = sweep.data, sweep.data.fisher
    if asked is None:
        return None
    unlimited = data.model_copy(update={"limits": data.limits.model_copy(update={"train": None})})
    found = load_task(asked.task, unlimited, ("train",)).train
    if len(found) < asked.examples:
        raise ValueError(
            f"data.fisher takes {asked.examples} examples of {asked.task}, but there are {len(found)}; lower "
            "data.fisher.examples"
        )
    return TaskData(asked.task, found[: asked.examples])


def encoded_fisher(sweep: Sweep, tokenizer: Any) -> list[Encoded]:
    """The same as tokens; those that are too long as training.too_long says. Raises ValueError as `fitted`."""
    found = load_fisher(sweep)
    return [] if found is None else fitted(sweep, found, tokenizer).items
