"""Slots and their pool on a local Ray, with workers that load no model and do as their jobs are named."""

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray
import torch.distributed
from ray.util import placement_group_table

from gallop_ray.slots import cluster
from gallop_ray.slots.jobs import Outcome, RunJob
from gallop_ray.slots.pool import start_pool
from gallop_ray.spec.schema import Sweep

SECONDS = 300

pytestmark = pytest.mark.faults


def work(config: Mapping[str, Any]) -> None:
    """As slots/worker.py serves a slot."""
    import ray.train

    slot, rank = config["slot"], ray.train.get_context().get_world_rank()
    names = [uuid.uuid4().hex]
    torch.distributed.broadcast_object_list(names, src=0)
    last = ray.get(slot.join.remote(rank, names[0], "node", 0))
    while (numbered := ray.get(slot.next_job.remote(last, "node", 0))) is not None:
        last, job = numbered
        outcome = do(job.configuration, rank)
        if not ray.get(slot.answer.remote(last, rank, outcome)):
            raise RuntimeError(outcome.reason)


def do(what: str, rank: int) -> Outcome:
    if what == "killed" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "out of memory" or (what == "out of memory alone" and rank == 1):
        return Outcome("out_of_memory", "no memory")
    if what in ("killed", "out of memory alone"):
        torch.distributed.barrier()
    return Outcome("finished", result={"pid": os.getpid()})


def refusing(config: Mapping[str, Any]) -> None:
    ray.get(config["slot"].refuse.remote("there is no such model"))


def crashing(config: Mapping[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sweep(**resources: Any) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "tiny",
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": "range"},
            "methods": [{"type": "random"}],
            "resources": resources,
        }
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`start(cpus, gpus, dashboard, **resources)`: Ray with so much, and a pool on it."""

    def begin(
        cpus: int, gpus: int = 0, dashboard: bool = False, work: Any = work, most: int = 8, **resources: Any
    ) -> Any:
        for name, value in cluster._RAY.items():
            os.environ.setdefault(name, value)
        variables = {name: os.environ[name] for name in cluster._RAY}
        ray.init(
            num_cpus=cpus,
            num_gpus=gpus,
            include_dashboard=dashboard,
            log_to_driver=False,
            logging_level="error",
            runtime_env={"env_vars": variables},
        )
        return start_pool(most, sweep(**resources).model_dump_json(), str(tmp_path), work)

    yield begin
    ray.shutdown()


def lease(pool: Any) -> tuple[str, Any]:
    found = ray.get(pool.lease.remote(), timeout=SECONDS)
    assert not isinstance(found, str), found
    return found


def run(slot: Any, what: str) -> Outcome:
    return ray.get(slot.execute.remote(RunJob(what, 0, 1)), timeout=SECONDS)


def groups() -> list[str]:
    """The states of the placement groups there are."""
    return [g["state"] for g in placement_group_table().values() if g["state"] != "REMOVED"]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.2)


def test_a_worker_that_does_not_see_the_sweeps_folder_is_refused(start: Callable[..., Any], tmp_path: Path) -> None:
    said = ray.get(start(2, work=None).lease.remote(), timeout=SECONDS)
    assert isinstance(said, str)
    assert f"does not see output {tmp_path}" in said
    assert list(tmp_path.glob("*.json")) == [], "nothing is begun in a folder of its own"


def test_every_way_a_run_can_end_in_a_slot_of_two_workers(start: Callable[..., Any]) -> None:
    pool = start(1, workers_per_slot=2, cpus_per_worker=0.5)
    name, slot = lease(pool)
    fine = run(slot, "fine")
    assert fine.status == "finished"
    assert run(slot, "out of memory").status == "out_of_memory"
    assert run(slot, "fine").result == fine.result, "ranks that agree need no new worker group"
    assert run(slot, "out of memory alone").status == "out_of_memory"
    assert run(slot, "fine").result != fine.result, "a rank that waits for another gets a new one"
    lost = run(slot, "killed")
    assert lost.status == "lost"
    assert "die" in str(lost.reason)
    assert run(slot, "fine").status == "finished"
    ray.get(pool.give_back.remote(name))
    assert lease(pool)[0] == name


@pytest.mark.parametrize("dashboard", [False, True])
def test_a_dead_slot_is_replaced_and_its_placement_group_removed(start: Callable[..., Any], dashboard: bool) -> None:
    pool = start(1, dashboard=dashboard)
    name, slot = lease(pool)
    ray.kill(slot)
    ray.get(pool.give_back.remote(name))
    other, slot = lease(pool)
    assert other != name
    assert run(slot, "fine").status == "finished"
    assert groups() == ["CREATED"]


@pytest.mark.parametrize(
    ("cpus", "gpus", "resources", "slots"),
    [
        (1, 0, {}, 1),
        (2, 0, {"cpus_per_worker": 0.5}, 4),
        (3, 0, {"workers_per_slot": 2}, 1),
        (3, 2, {"gpus_per_worker": 0.4}, 3),
        (3, 2, {"workers_per_slot": 2, "cpus_per_worker": 1, "gpus_per_worker": 1, "slots": 2}, 1),
    ],
)
def test_count(cpus: int, gpus: int, resources: Mapping[str, Any], slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # by which tests see no GPU, and Ray starts none
    ray.init(num_cpus=cpus, num_gpus=gpus, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        assert cluster.count_slots(sweep(**resources).resources) == slots
        with pytest.raises(ValueError, match="lower resources"):
            cluster.count_slots(sweep(cpus_per_worker=4).resources)
    finally:
        ray.shutdown()


def test_all_slots_that_fit_start_and_more_trials_wait(start: Callable[..., Any]) -> None:
    pool = start(2, cpus_per_worker=1)
    leased = [lease(pool) for _ in range(2)]
    waiting = pool.lease.remote()
    assert ray.wait([waiting], timeout=1)[0] == []
    ray.get(pool.give_back.remote(leased[0][0]))
    assert ray.get(waiting, timeout=SECONDS)[0] == leased[0][0]


def test_slots_without_work_are_given_back(start: Callable[..., Any]) -> None:
    pool = start(2, cpus_per_worker=1)
    (name, _), (other, _) = lease(pool), lease(pool)
    ray.get(pool.give_back.remote(other))
    until(lambda: len(groups()) == 2)
    ray.get(pool.shrink.remote(1))
    until(lambda: len(groups()) == 1)
    assert ray.get(pool.size.remote()) == 1
    ray.get(pool.give_back.remote(name))
    assert lease(pool)[0] == name


def test_what_the_workers_refuse_is_said_to_who_asks_for_a_slot(start: Callable[..., Any]) -> None:
    pool = start(1, work=refusing)
    assert ray.get(pool.lease.remote(), timeout=SECONDS) == "there is no such model"


def test_workers_that_die_at_every_start_end_the_waiting(start: Callable[..., Any]) -> None:
    pool = start(1, work=crashing)
    # Told by the slot, or by Ray Train where it was still starting them.
    assert "died" in ray.get(pool.lease.remote(), timeout=SECONDS)


def test_the_lease_of_a_dead_trial_ends(start: Callable[..., Any]) -> None:
    pool = start(1)

    @ray.remote(num_cpus=0)
    class Trial:
        def lease(self) -> str:
            return str(ray.get(pool.lease.remote(ray.get_runtime_context().get_actor_id()))[0])

    trial = Trial.remote()
    name = ray.get(trial.lease.remote(), timeout=SECONDS)
    ray.kill(trial)
    assert lease(pool)[0] == name
