"""`gallop-ray doctor`: does this machine, or the cluster of RAY_ADDRESS, have what sweeps need?"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import ray

from gallop_ray.disk.bucket.address import is_bucket
from gallop_ray.mlflow_mirror.store import default_uri, tracking_uri
from gallop_ray.preflight import hub_checks, machine_checks, memory_checks, sweep_checks, task_checks
from gallop_ray.preflight.data_checks import general_text
from gallop_ray.preflight.findings import Finding, ok, print_findings, problem, warning
from gallop_ray.records.environment import environment_record
from gallop_ray.slots.cluster import leave, possible_slots
from gallop_ray.slots.nodes import node_troubles
from gallop_ray.slots.ray_address import RayAddress, find_ray
from gallop_ray.spec.machine import TrackingSpec
from gallop_ray.spec.schema import Sweep
from gallop_ray.training.engine import quiet

_FOUND, _USER_ERROR = 1, 2


def examine(sweep: Sweep | None) -> int:
    """Print a line for each check. Returns the exit code: 0 without a problem, 2 for one that `run` refuses, else 1."""
    quiet()
    counts, refused = print_findings(_findings(sweep))
    print(f"problems: {counts['problem']}, warnings: {counts['warning']}")
    if refused:
        return _USER_ERROR
    return _FOUND if counts["problem"] else 0


def _findings(sweep: Sweep | None) -> Iterator[Finding]:
    yield from machine_checks.versions()
    yield from machine_checks.gpus()
    yield from machine_checks.memory()
    yield from machine_checks.traps()
    yield ok(f"DeepSpeed {environment_record()['deepspeed']} loads; it has nothing to compile for a sweep")
    yield from machine_checks.cache()
    yield from machine_checks.disk(sweep.output if sweep else "runs")
    yield from machine_checks.tracking(*_store(sweep))
    found: RayAddress | None = None
    try:
        found = find_ray()
    except ValueError as error:
        what, _, fix = str(error).rpartition("; ")
        yield problem(what, fix[0].upper() + fix[1:])
    if found is not None:
        yield from _ray(found, sweep)
    if sweep is None:
        yield from memory_checks.presets()
        return
    yield from sweep_checks.studies(sweep)
    of_model = list(sweep_checks.model(sweep))
    yield from of_model
    yield from task_checks.data(sweep)
    yield from general_text(sweep)
    yield from hub_checks.hub_text(sweep)
    if all(each.level != "problem" for each in of_model):
        yield from sweep_checks.tuners(sweep)
    yield from sweep_checks.optimizer(sweep)
    yield from sweep_checks.extra(sweep)
    if found is not None and found.is_local and all(each.level != "problem" for each in of_model):
        yield from memory_checks.slots(sweep)


def _store(sweep: Sweep | None) -> tuple[str, str]:
    """MLflow's address and experiment."""
    if sweep is None:
        return default_uri("runs"), str(TrackingSpec.model_fields["experiment"].default)
    return tracking_uri(sweep), sweep.tracking.experiment


def _ray(found: RayAddress, sweep: Sweep | None) -> Iterator[Finding]:
    """Which Ray a sweep would use; whether a cluster can be joined and has resources for a slot."""
    if found.stale:
        yield warning(found.stale, "Run: ray stop")
    if found.is_local:
        yield ok(f"{found.text} (version {environment_record()['ray']})")
        return
    yield ok(found.text)
    try:
        ray.init(address=found.address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of another version, with another token: Ray says which
        reason = str(error).strip().splitlines()[0]
        yield problem(f"the Ray cluster at {found.name} cannot be joined: {reason}", "See cluster/README.md")
        return
    with suppress(Exception):
        have = ray.cluster_resources()
        nodes = sum(node["Alive"] for node in ray.nodes())
        cpus, gpus = (have.get(name, 0) for name in ("CPU", "GPU"))
        yield ok(f"Ray cluster at {found.name}: nodes {nodes}, CPUs {cpus:g}, GPUs {gpus:g}")
        if sweep is not None:
            yield _room(sweep)
        output = sweep.output if sweep else "runs"
        where = output if is_bucket(output) else str(Path(output).expanduser().absolute())
        for each in node_troubles(where):
            yield Finding("problem", each.what, each.fix, refused=True)
    leave()


def _room(sweep: Sweep) -> Finding:
    now, later = possible_slots(sweep.resources)
    asked = sweep.resources
    size = f"{asked.workers_per_slot} x {asked.cpus_per_worker:g} CPUs, {asked.gpus_per_worker:g} GPUs"
    if later < 1:
        return problem(f"no slot ({size}) fits on its nodes", "Lower resources, or add nodes")
    return ok(f"slots ({size}) that fit: {now} now, {later} with nodes that its autoscaler may add")
