"""Ray Train in a slot's own process, which torch is never imported in."""

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import ray
import ray.train
from ray.exceptions import GetTimeoutError
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import (
    AcceleratorSetupCallback,
    BackendSetupCallback,
    WorkingDirectorySetupCallback,
)
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client import (
    TrainAutoscalingCoordinatorClient,
)
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from gallop_ray.compat.probe import require
from gallop_ray.importing import uncollected

_LEAVE_SECONDS = 30.0
_COLLECTIVE = timedelta(minutes=30)
"""How long a rank may wait for the others: as Ray has it, while NCCL would wait for ten minutes."""
_REQUESTS = ("send_resource_request", "cancel_resource_request")
_BLOCKS = "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC"


def probe() -> None:
    """Raises Incompatible."""
    client = TrainAutoscalingCoordinatorClient
    require(
        "ray",
        {
            "train.DataParallelTrainer._create_default_callbacks": (
                lambda: DataParallelTrainer._create_default_callbacks
            ),
            "train.DataParallelTrainer._initialize_and_run_controller": (
                lambda: DataParallelTrainer._initialize_and_run_controller
            ),
            "train.TrainController.run": lambda: asyncio.iscoroutinefunction(TrainController.run),
            "train.TrainController.get_result": lambda: TrainController.get_result,
            **{f"train.{client.__name__}.{name}": partial(getattr, client, name) for name in _REQUESTS},
        },
    )


@dataclass
class TorchGroup(BackendConfig):
    """torch.distributed among the workers. Ray's TorchConfig imports torch into the processes that start them, too."""

    backend: str

    @property
    def backend_cls(self) -> type[Backend]:
        """What sets it up."""
        return _TorchGroup


class _TorchGroup(Backend):
    share_cuda_visible_devices = True  # NCCL's peers on a node must see each other's

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        place = worker_group.execute_single(0, _free_place)
        worker_group.execute(_join, backend_config.backend, place)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        if len(worker_group) > 1:
            with suppress(GetTimeoutError):  # a rank in a collective that others have left
                ray.get(worker_group.execute_async(_leave), timeout=_LEAVE_SECONDS)


def _free_place() -> tuple[str, int]:
    """Where rank 0 may listen: its node's address and a free port."""
    from ray.train._internal.utils import get_address_and_port

    place: tuple[str, int] = get_address_and_port()
    return place


def _join(backend: str, place: tuple[str, int]) -> None:
    """In a worker: enter the process group, and state the rank as torchrun does, for DeepSpeed."""
    with uncollected():
        import torch.distributed

    context = ray.train.get_context()
    os.environ.update(
        MASTER_ADDR=place[0],
        MASTER_PORT=str(place[1]),
        RANK=str(context.get_world_rank()),
        WORLD_SIZE=str(context.get_world_size()),
        LOCAL_RANK=str(context.get_local_rank()),
        LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
        NODE_RANK=str(context.get_node_rank()),
    )
    torch.distributed.init_process_group(backend, init_method="env://", timeout=_COLLECTIVE)


def _leave() -> None:
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Trainer(DataParallelTrainer):
    """A Ray Train run whose controller lives in the calling process, an actor's.

    Ray Train starts an actor for it, one for data sets, of which there are none, and one that removes placement groups,
    which the pool does itself: processes that start one after another.
    """

    def _create_default_callbacks(self) -> list[Any]:
        scaling: Any = self.scaling_config
        needed = [
            AcceleratorSetupCallback(self.backend_config, scaling),
            BackendSetupCallback(self.backend_config),
            WorkingDirectorySetupCallback(),
        ]
        return [*needed, *(self.run_config.callbacks or [])]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        _ask_for_no_nodes()
        os.environ.setdefault(_BLOCKS, "0")  # it waits for actors in its event loop, which is nobody else's here
        controller = TrainController(**arguments)
        asyncio.run(controller.run())
        return controller.get_result()


def _ask_for_no_nodes() -> None:
    """Let the placement group alone say what the slot needs.

    Ray Train asks the autoscaler for the same once more, through an actor that outlives the controller: what a slot had
    asked for that died with its node, or was killed at the end of a sweep, would keep or start a node for 3 minutes.
    """
    for name in _REQUESTS:
        setattr(TrainAutoscalingCoordinatorClient, name, _ask_for_nothing)


def _ask_for_nothing(self: Any, *args: Any) -> None:
    """In place of a request."""
