"""The nodes that an autoscaler may still add, by what `ray up` leaves on the head, or by KubeRay's RayCluster."""

import logging
import math
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from gallop_ray.compat.ray import autoscaler_limit, kuberay_config
from gallop_ray.spec.machine import ResourcesSpec

_LOG = logging.getLogger(__name__)
_BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # `ray up` writes its autoscaler's configuration here on the head
_KUBERAY_SECONDS = 30.0  # the pool asks every five seconds, and the API server belongs to others, too
_ROUNDING = 1e-9  # 0.3 / 0.1 is less than 3


def workers_to_come(resources: ResourcesSpec) -> int:
    """The workers that fit the nodes an autoscaler may add; 0 where nothing is known of one.

    Open-source autoscalers do not tell Ray what they may add, so their own settings are read; others may tell.
    """
    if (most := autoscaler_limit()) is not None:
        return workers_on(most, resources)
    config = _bootstrap() or _kuberay(math.floor(time.monotonic() / _KUBERAY_SECONDS))
    return workers_of(config, resources) if config else 0


def workers_of(config: Mapping[str, Any], resources: ResourcesSpec) -> int:
    """The workers that fit all nodes of an autoscaler's configuration, the largest nodes first; none on the head."""
    types = {name: each for name, each in config["available_node_types"].items() if name != config["head_node_type"]}
    nodes = [
        (workers_on(each.get("resources") or {}, resources), each.get("max_workers", 0)) for each in types.values()
    ]
    left, workers = config.get("max_workers", 0), 0
    for on_one, count in sorted(nodes, reverse=True):
        taken = min(left, count)
        left, workers = left - taken, workers + taken * on_one
    return workers


def workers_on(node: Mapping[str, float], resources: ResourcesSpec) -> int:
    """The workers that fit one node: each needs its CPUs and GPUs there."""
    by_cpu = math.floor(node.get("CPU", 0) / resources.cpus_per_worker + _ROUNDING)
    each = resources.gpus_per_worker
    if not each:
        return by_cpu
    # A fraction of a GPU cannot be put together from several GPUs.
    per_gpu = math.floor(1 / each + _ROUNDING) if each < 1 else 1 / each
    return min(by_cpu, math.floor(node.get("GPU", 0) * per_gpu + _ROUNDING))


def _bootstrap() -> Mapping[str, Any] | None:
    try:
        config: Mapping[str, Any] = yaml.safe_load(_BOOTSTRAP.expanduser().read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    return config


@lru_cache(maxsize=1)
def _kuberay(moment: int) -> Mapping[str, Any] | None:
    """The RayCluster of this pod; None outside of one, or where it may not be read. Read once per moment."""
    try:
        return kuberay_config()
    except (OSError, ValueError, LookupError) as error:  # requests' errors are OSErrors
        _LOG.warning("what KubeRay's autoscaler may add is unknown: %s", error)
        return None
