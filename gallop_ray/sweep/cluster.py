"""Ray: starting or joining it, and how many slots it holds."""

import logging
import math
import os
import signal
from typing import Any

import ray

from gallop_ray.spec.schema import ResourcesSpec

_RAY = {
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # the job may pass on the same variables as we do
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "3600",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # By default as many as CPUs, and four times that is worth a warning to Ray; but ours mostly wait.
    "RAY_worker_maximum_startup_concurrency": "16",
}
_PASSED_ON = ("HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE", "GALLOP_RAY_CACHE")


def connect(verbose: bool) -> None:
    """Join the cluster that RAY_ADDRESS names, as in a submitted job; without one start Ray on this machine."""
    for name, value in _RAY.items():
        os.environ.setdefault(name, value)
    passed_on = {name: os.environ[name] for name in (*_RAY, *_PASSED_ON) if name in os.environ}
    level = logging.INFO if verbose else logging.ERROR
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(level)
    address = os.environ.get("RAY_ADDRESS", "local")
    options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(
        address=address,
        log_to_driver=verbose,
        logging_level=level,
        runtime_env={"env_vars": passed_on},
        **options,
    )
    # Ray has set one of its own, which leaves no time to say how to go on.
    signal.signal(signal.SIGTERM, handler)


def count_slots(resources: ResourcesSpec) -> int:
    """The number of slots to start: as asked, or as many as the cluster holds.

    Raises ValueError where not even one fits.
    """
    have: dict[str, float] = ray.cluster_resources()
    fits = math.floor(have.get("CPU", 0) / (resources.workers_per_slot * resources.cpus_per_worker) + 1e-9)
    if resources.gpus_per_worker:
        need = resources.workers_per_slot * resources.gpus_per_worker
        fits = min(fits, math.floor(have.get("GPU", 0) / need + 1e-9))
    if fits < 1:
        raise ValueError(
            f"a slot needs {resources.workers_per_slot} workers of {resources.cpus_per_worker:g} CPUs and "
            f"{resources.gpus_per_worker:g} GPUs, the cluster has {have.get('CPU', 0):g} CPUs and "
            f"{have.get('GPU', 0):g} GPUs; lower resources.workers_per_slot, cpus_per_worker or gpus_per_worker"
        )
    return fits if resources.slots == "auto" else min(fits, resources.slots)
