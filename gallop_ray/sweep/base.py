"""Before the first run: the sweep is checked against the model, and the base model is measured."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import ray

from gallop_ray.errors import Halted
from gallop_ray.records.folders import SweepFolder
from gallop_ray.slots.failures import POLICIES
from gallop_ray.slots.jobs import BaseJob, CheckJob, Job, execute_in
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.metrics import accuracies


def prepare(pool: Any, sweep: Sweep, folder: SweepFolder, note: Callable[[str], None]) -> Future[None]:
    """Check the sweep against the model, and start measuring the base model unless an earlier start has.

    The future completes with the measurement. Meanwhile Tune starts the first trials, which takes seconds; they wait
    for base.json. Raises Halted where the sweep cannot run as requested; so does the future.
    """
    prepared = "" if Path(sweep.model.name).is_dir() else ": the first time it is downloaded or made, some minutes"
    note(f"loading {sweep.model.name}{prepared}")
    _execute(pool, CheckJob())
    measured: Future[None] = Future()

    def measure() -> None:
        try:
            if folder.base() is None:
                note("measuring the base model")
                found = _execute(pool, BaseJob())
                folder.write_base(accuracies(found["correct"]), **found)
            measured.set_result(None)
        except Exception as error:
            measured.set_exception(error)

    # A daemon, which Python does not wait for when it exits: an interrupted sweep has three seconds.
    threading.Thread(target=measure, daemon=True).start()
    return measured


def _execute(pool: Any, job: Job) -> dict[str, Any]:
    """A job's result from any slot; retried where workers died for what may not have been the job's fault."""
    for _ in range(1 + POLICIES["lost"].retries):
        lease = ray.get(pool.lease.remote())
        if isinstance(lease, str):
            raise Halted(lease, mistake=True)
        name, slot = lease
        outcome = execute_in(slot, job)
        ray.get(pool.give_back.remote(name))
        if outcome.status not in ("lost", "preempted"):
            break
    if outcome.status == "out_of_memory":
        reason = f"the base model alone needs more memory than there is: {outcome.reason}"
        raise Halted(reason, mistake=True)
    if outcome.status != "finished":
        raise Halted(str(outcome.reason), mistake=outcome.status == "refused")
    return outcome.result
