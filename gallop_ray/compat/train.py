"""Ray Train: a worker group's callbacks, and the death of a worker."""

from typing import Any

from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from gallop_ray.compat.probe import require

# Not the public UserCallback, which is called for errors only: a group whose node is about to go ends without one.
__all__ = ["WorkerGroupCallback", "causes", "probe"]


def probe() -> None:
    """Raises Incompatible."""
    require(
        "ray",
        {
            "train.WorkerGroupCallback.after_worker_group_poll_status": (
                lambda: WorkerGroupCallback.after_worker_group_poll_status
            ),
            "train.WorkerGroupCallback.before_worker_group_shutdown": (
                lambda: WorkerGroupCallback.before_worker_group_shutdown
            ),
            "train.WorkerHealthCheckFailedError.health_check_failure": (
                lambda: WorkerHealthCheckFailedError("", RuntimeError()).health_check_failure
            ),
        },
    )


def causes(errors: dict[int, Exception]) -> list[Exception]:
    """The workers' errors in order of rank; a death is wrapped in a failed health check."""
    found: list[Any] = [getattr(error, "health_check_failure", error) for _, error in sorted(errors.items())]
    return found
