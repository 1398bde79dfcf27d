"""Ray: starting or joining it, and how many slots it holds."""

import gc
import logging
import math
import os
import signal
from typing import Any

import ray

from gallop_ray.records.control import Terminated
from gallop_ray.slots.coming import workers_on, workers_to_come
from gallop_ray.slots.ray_address import LOCAL, RayAddress
from gallop_ray.spec.machine import ResourcesSpec

_RAY = {
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # the job may pass on the same variables as we do
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files per trial, which nobody reads
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's handler ends its loop in its own time
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "3600",  # trials need no resources: the pool waits for nodes
    # Who has reserved no GPU sees none: a worker on the CPU would else put its model onto one, as would idle actors.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # 2 s by default, in which a worker's death goes unnoticed
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process per slot, for notices that our workers do not use
    # A cloud node can take half an hour to start, and a full cluster has none until another leaves.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "7200",
    # By default as many as CPUs, and Ray warns at four times that; but our processes mostly wait.
    "RAY_worker_maximum_startup_concurrency": "16",
}
# Nothing secret: Ray logs runtime environments in plain text. Slots hand HF_TOKEN to their workers.
_PASSED_ON = ("HF_HOME", "HF_HUB_OFFLINE", "GALLOP_RAY_CACHE")


def connect(found: RayAddress, verbose: bool) -> None:
    """Join the cluster that was found, or start Ray on this machine."""
    for name, value in _RAY.items():
        os.environ.setdefault(name, value)  # what the user has set wins
    level = logging.INFO if verbose else logging.ERROR
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(level)
    if not os.environ.get("RAY_ADDRESS", LOCAL).strip():
        del os.environ["RAY_ADDRESS"]  # Ray would take the blanks for an address
    # A Ray of our own has our environment. With one for the job it would not use the processes that it starts with.
    options: dict[str, Any] = {"include_dashboard": False} if found.is_local else {"runtime_env": _environment()}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=found.address,
            log_to_driver=verbose,
            logging_level=level,
            **options,
        )
    except SystemExit as error:  # Ray's reaction to SIGTERM while it starts
        raise Terminated from error
    # ray.init() has installed its own handler, which exits before we can say how to resume.
    signal.signal(signal.SIGTERM, handler)


def _environment() -> dict[str, Any]:
    """What the processes of a cluster take over from this one."""
    return {"env_vars": {name: os.environ[name] for name in (*_RAY, *_PASSED_ON) if name in os.environ}}


def leave() -> None:
    """Shut Ray down.

    If another thread's garbage collection frees an object reference after Ray's core has gone, but before Ray has noted
    it, the process exits with code 1. Tune leaves such references in cycles, so they are collected first.
    """
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def beside_driver() -> dict[str, float]:
    """Resources for an idle actor on the driver's node: a tiny share of the resource that only this node has."""
    here = ray.get_runtime_context().get_node_id()
    (node,) = (node for node in ray.nodes() if node["NodeID"] == here)
    address = next(name for name in node["Resources"] if name.startswith("node:") and "internal" not in name)
    return {"CPU": 0, address: 0.0001}  # 0, because Tune would reserve a whole CPU per trial


def possible_slots(resources: ResourcesSpec) -> tuple[int, int]:
    """How many slots fit the cluster now, and with all nodes its autoscaler may add; at most as many as asked for."""
    asked = math.inf if resources.slots == "auto" else resources.slots
    now = _fitting(resources)
    later = workers_to_come(resources) // resources.workers_per_slot
    return int(min(asked, now)), int(min(asked, max(now, later)))


def count_slots(resources: ResourcesSpec) -> int:
    """The number of slots to start with, at least one. Raises ValueError where not even one fits, now or later."""
    now, later = possible_slots(resources)
    if later < 1:
        have: dict[str, float] = ray.cluster_resources()
        raise ValueError(
            f"a slot needs {resources.workers_per_slot} workers of {resources.cpus_per_worker:g} CPUs and "
            f"{resources.gpus_per_worker:g} GPUs, the cluster has {have.get('CPU', 0):g} CPUs and "
            f"{have.get('GPU', 0):g} GPUs; lower resources.workers_per_slot, cpus_per_worker or gpus_per_worker"
        )
    return max(1, now)


def _fitting(resources: ResourcesSpec) -> int:
    """The slots that fit the present nodes: a worker needs its CPUs and GPUs on one node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(workers_on(node, resources) for node in nodes) // resources.workers_per_slot
