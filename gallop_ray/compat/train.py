"""Ray Train: a worker group's callbacks, the death of a worker, and what its controller asks an autoscaler for."""

from functools import partial
from typing import Any

from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client import (
    TrainAutoscalingCoordinatorClient,
)

from gallop_ray.compat.probe import require

# Not the public UserCallback, which is called for errors only: a group whose node is about to go ends without one.
__all__ = ["WorkerGroupCallback", "ask_for_no_nodes", "causes", "probe"]
_REQUESTS = ("send_resource_request", "cancel_resource_request")


def probe() -> None:
    """Raises Incompatible."""
    client = TrainAutoscalingCoordinatorClient
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
            **{f"train.{client.__name__}.{name}": partial(getattr, client, name) for name in _REQUESTS},
        },
    )


def ask_for_no_nodes() -> None:
    """In the controller's process: let the placement group alone say what the slot needs.

    Ray Train asks the autoscaler for the same once more, through an actor that outlives the controller: what a slot had
    asked for that died with its node, or was killed at the end of a sweep, would keep or start a node for 3 minutes.
    """
    for name in _REQUESTS:
        setattr(TrainAutoscalingCoordinatorClient, name, _ask_for_nothing)


def _ask_for_nothing(self: Any, *args: Any) -> None:
    """In place of a request."""


def causes(errors: dict[int, Exception]) -> list[Exception]:
    """The workers' errors in order of rank; a death is wrapped in a failed health check."""
    found: list[Any] = [getattr(error, "health_check_failure", error) for _, error in sorted(errors.items())]
    return found
