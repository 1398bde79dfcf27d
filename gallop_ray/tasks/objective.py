"""What a search goes by where its sweep does not say: that depends on what the rows of its data look like."""

from gallop_ray.spec.data import DataSpec
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.search import LOSS_OBJECTIVE
from gallop_ray.spec.tasks import is_local
from gallop_ray.tasks.own import OwnTask


def with_default_objective(sweep: Sweep) -> Sweep:
    """The sweep, with the loss as its objective where it names none and trains on free text without a measure.

    The formats of local files are looked up; those of the hub count as what the sweep says of them. What is wrong with
    files is said where they are read.
    """
    tasks = sweep.data.train_tasks
    if "metric" in sweep.objective.model_fields_set or not all(_counts_by_loss(sweep.data, name) for name in tasks):
        return sweep
    return sweep.model_copy(update={"objective": sweep.objective.model_copy(update={"metric": LOSS_OBJECTIVE})})


def _counts_by_loss(data: DataSpec, name: str) -> bool:
    task = data.task(name)
    if task.measure is None and task.format is None and task.source is not None and is_local(task.source):
        try:
            task = task.model_copy(update={"format": OwnTask(name, task, True, data.split_seed).format})
        except ValueError:
            return False
    return task.counts_by_loss
