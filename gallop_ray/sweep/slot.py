"""A slot: one long-lived Ray Train run whose workers hold the base model and wait for jobs."""

import asyncio
import threading
import uuid
from pathlib import Path
from typing import Any

import ray

from gallop_ray.spec.schema import Sweep
from gallop_ray.sweep.jobs import Job, Outcome

CPU_SHARE = 0.99
"""Workers ask for this share of their CPUs; the rest is for the trials, which only wait."""


@ray.remote(num_cpus=0)
class Slot:
    """Runs the workers' Ray Train run in a thread, and hands jobs and answers to and fro."""

    def __init__(self, name: str, sweep: str, folder: str) -> None:
        self._name, self._sweep, self._folder = name, Sweep.model_validate_json(sweep), folder
        self._changed = asyncio.Condition()
        self._job: tuple[int, Job] | None = None
        self._outcome: Outcome | None = None
        self._number = 0
        self._group, self._joined = "", set[int]()
        self._refused: str | None = None
        self._stopping = False
        self._placement_group: str | None = None

    async def start(self) -> None:
        """Start the workers; join() calls come when they have loaded the model."""
        loop, me = asyncio.get_running_loop(), ray.get_runtime_context().current_actor
        threading.Thread(target=self._fit, args=(me, loop), daemon=True).start()

    def _fit(self, me: Any, loop: asyncio.AbstractEventLoop) -> None:
        resources = self._sweep.resources
        per_worker = {"CPU": resources.cpus_per_worker * CPU_SHARE}
        if resources.gpus_per_worker:
            per_worker["GPU"] = resources.gpus_per_worker
        config = {"slot": me, "name": self._name, "sweep": self._sweep.model_dump_json(), "folder": self._folder}
        # Imported here, in the slot's own process: torch comes along, and neither driver nor pool needs it.
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        from gallop_ray.sweep.worker import serve

        trainer = TorchTrainer(
            serve,
            train_loop_config=config,
            scaling_config=ScalingConfig(
                num_workers=resources.workers_per_slot,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=per_worker,
            ),
            torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
            run_config=RunConfig(
                name=f"{self._name}-{uuid.uuid4().hex[:6]}",
                storage_path=str(Path(self._folder) / "ray"),
                failure_config=FailureConfig(max_failures=-1),
            ),
        )
        try:
            trainer.fit()
            reason = "the slot's workers ended"
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
        asyncio.run_coroutine_threadsafe(self._ended(reason), loop)

    async def _ended(self, reason: str) -> None:
        async with self._changed:
            self._refused = self._refused or reason
            self._joined.clear()
            self._outcome = self._outcome or Outcome("lost", reason)
            self._changed.notify_all()

    # -- the workers' side

    async def join(self, rank: int, group: str, placement_group: str | None) -> int:
        """A rank has loaded the model. Returns the number of the last job, which is not for this start of the group."""
        async with self._changed:
            if group != self._group:
                self._group, self._joined, self._placement_group = group, set(), placement_group
                self._lose("a worker died; the slot's workers started again")
            self._joined.add(rank)
            self._changed.notify_all()
            return self._number

    async def refuse(self, reason: str) -> None:
        """The model or the data cannot be loaded."""
        async with self._changed:
            self._refused = reason
            self._changed.notify_all()

    async def next_job(self, last: int) -> tuple[int, Job] | None:
        """The first job after number `last`, waiting for one; None when the slot stops."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._stopping or (self._job is not None and self._job[0] > last))
            return None if self._stopping else self._job

    async def answer(self, number: int, outcome: Outcome) -> None:
        """A job has ended. A second answer, from another rank, does not count."""
        async with self._changed:
            if self._job is not None and self._job[0] == number:
                self._job, self._outcome = None, outcome
            if outcome.status == "failed":
                self._joined.clear()  # the group goes down and comes back under another name
            self._changed.notify_all()

    # -- the driver's side

    async def ready(self) -> str | None:
        """Wait until all workers have loaded the model; otherwise why they could not."""
        async with self._changed:
            await self._changed.wait_for(self._settled)
            return self._refused

    async def execute(self, job: Job) -> Outcome:
        """Run a job to its end, one at a time."""
        async with self._changed:
            await self._changed.wait_for(self._settled)
            if self._refused:
                return Outcome("lost", self._refused)
            self._number += 1
            self._job, self._outcome = (self._number, job), None
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._outcome is not None)
            assert self._outcome is not None
            return self._outcome

    async def state(self) -> tuple[bool, str | None]:
        """Whether the Ray Train run goes on, and the id of the workers' placement group."""
        return self._refused is None, self._placement_group

    async def stop(self) -> None:
        """Let the workers end."""
        async with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _settled(self) -> bool:
        return self._refused is not None or len(self._joined) == self._sweep.resources.workers_per_slot

    def _lose(self, reason: str) -> None:
        if self._job is not None:
            self._job, self._outcome = None, Outcome("lost", reason)
