"""Examples of another task that are mixed into those of the task trained on (`data.replay`)."""

from typing import Any

from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.encode import Encoded
from gallop_ray.tasks.examples import TaskData
from gallop_ray.tasks.lengths import fitted
from gallop_ray.tasks.load import load_task


def load_replay(sweep: Sweep, train: int) -> TaskData | None:
    """The examples to mix into an epoch with so many of the task trained on; None where there are none to mix in.

    data.limits is of the task trained on: here the share decides. Raises ValueError where the task has fewer.
    """
    data, replay = sweep.data, sweep.data.replay
    if replay is None:
        return None
    unlimited = data.model_copy(update={"limits": data.limits.model_copy(update={"train": None})})
    wanted, found = replay.examples(train), load_task(replay.task, unlimited, ("train",)).train
    if len(found) < wanted:
        raise ValueError(
            f"data.replay takes {wanted} examples of {replay.task}, a share of {replay.share:g} beside {train} of the "
            f"task trained on, but there are {len(found)}; lower data.replay.share or data.limits.train"
        )
    return TaskData(replay.task, found[:wanted])


def encoded_replay(sweep: Sweep, train: int, tokenizer: Any) -> list[Encoded]:
    """The same as tokens. Raises ValueError as `fitted`, and where some are dropped for their length."""
    replay = load_replay(sweep, train)
    if replay is None:
        return []
    found = fitted(sweep, replay, tokenizer)
    if found.dropped:
        raise ValueError(
            f"data.replay: {found.dropped} of {len(replay.train)} examples of {replay.name} are longer than "
            f"training.max_length {sweep.training.max_length}, and too_long is drop; raise it, or give cut"
        )
    return found.items
