"""A slot: one long-lived Ray Train run whose workers hold the base model and wait for jobs."""

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray

from gallop_ray.disk.bucket.address import placed
from gallop_ray.importing import uncollected
from gallop_ray.slots.jobs import Job, Outcome, Refusal
from gallop_ray.spec.registry import STORED
from gallop_ray.spec.schema import Sweep

_GRACE_SECONDS = 10.0
"""Time for all ranks to report the same failure; a rank that has not by then is stuck in a collective."""
_STARTS = 3  # deaths of the worker group in a row while it loads the model, before the slot gives up

Work = Callable[[Mapping[str, Any]], None]


def _serve(config: Mapping[str, Any]) -> None:
    """A worker's training function, imported in the worker only: the slot just passes on this name.

    DeepSpeed, transformers and PEFT take seconds to import, and these processes start one after another.
    """
    with uncollected():
        from gallop_ray.slots.worker import serve

    serve(config)


@dataclass
class _Turn:
    """One active job: the ranks' answers, and its outcome once it has ended."""

    number: int
    job: Job
    answers: dict[int, Outcome] = field(default_factory=dict)
    outcome: Outcome | None = None

    def end(self, outcome: Outcome) -> None:
        """Set the outcome; the first one counts."""
        self.outcome = self.outcome or outcome

    def agreed(self) -> Outcome:
        """The first failure by rank if there is one, else rank 0's answer."""
        answers = [answer for _, answer in sorted(self.answers.items())]
        return next((each for each in answers if each.failed), answers[0])


@ray.remote(num_cpus=0)  # its workers have the resources
class Slot:
    """Runs the workers' Ray Train run in a thread, and passes jobs to the workers and their answers back.

    work: the training function of every worker; None for that of slots/worker.py.
    variables: the environment that workers take over from the driver; secret, so not a part of Ray Train's settings.
    """

    def __init__(
        self, name: str, sweep: str, folder: str, work: Work | None = None, variables: Mapping[str, str] | None = None
    ) -> None:
        self._name, self._sweep, self._folder = name, Sweep.model_validate_json(sweep, context=STORED), folder
        self._work = work
        self._variables = variables or {}
        os.environ.update(self._variables)  # `placed` depends on the bucket's server
        self._changed = asyncio.Condition()
        self._number = 0
        self._turn: _Turn | None = None
        self._group, self._joined, self._starts = "", set[int](), 0
        self._kills: dict[str, int] = {}
        self._death: Outcome | None = None
        self._refused: Refusal | None = None
        self._stopping = False

    async def start(self) -> None:
        """Start the workers, which call join() when they have loaded the model."""
        # A thread, because fit() blocks until the slot ends, and the workers call this actor meanwhile.
        loop, me = asyncio.get_running_loop(), ray.get_runtime_context().current_actor
        threading.Thread(target=self._fit, args=(me, loop), daemon=True).start()

    def _fit(self, me: Any, loop: asyncio.AbstractEventLoop) -> None:
        resources = self._sweep.resources
        per_worker = {"CPU": resources.cpus_per_worker}
        if resources.gpus_per_worker:
            per_worker["GPU"] = resources.gpus_per_worker
        place = {"slot": me, "name": self._name, "started": time.time(), "folder": self._folder}
        config = {**place, "sweep": self._sweep.model_dump_json()}
        # Imported here, in the slot's own process: pool and other actors need none of it.
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from gallop_ray.compat.trainer import TorchGroup, Trainer
        from gallop_ray.slots.group_ends import WorkerFailures

        trainer = Trainer(
            self._work or _serve,
            train_loop_config=config,
            scaling_config=ScalingConfig(
                num_workers=resources.workers_per_slot,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=per_worker,
            ),
            backend_config=TorchGroup("nccl" if resources.gpus_per_worker else "gloo"),
            run_config=RunConfig(
                name=f"{self._name}-{uuid.uuid4().hex[:6]}",  # Ray Train would take an old one for a run to resume
                storage_path=str(placed(self._folder) / "ray"),
                failure_config=FailureConfig(max_failures=-1),  # always: the slot itself counts (_STARTS)
                callbacks=[WorkerFailures(me)],  # type: ignore[list-item]
            ),
        )
        try:
            trainer.fit()
            reason = "the slot's workers ended"
        except BaseException as error:  # in a thread nobody else would see it, and callers would wait for ever
            reason = f"{type(error).__name__}: {error}"
        asyncio.run_coroutine_threadsafe(self._end(reason), loop)

    async def _end(self, reason: str) -> None:
        async with self._changed:
            self._refused = self._refused or Refusal(reason, final=False)
            self._joined.clear()
            self._death = self._death or Outcome("lost", reason)
            self._lose()
            self._changed.notify_all()

    # -- the workers' side

    async def variables(self) -> Mapping[str, str]:
        """Environment variables for the workers, which ask for them before they import what reads them."""
        return self._variables

    async def join(self, rank: int, group: str, node: str, kills: int) -> int:
        """A rank has loaded the model. Returns the number of the last job, which this start of the group must skip.

        kills: how often the kernel of the rank's node has killed a process for lack of memory.
        """
        async with self._changed:
            if group != self._group:
                self._group, self._joined = group, set()
            # A killed worker cannot say why it died: the kernel's counter, compared with the last one, tells.
            if kills > self._kills.get(node, kills):
                self._death = Outcome("out_of_memory", "a worker's node ran out of memory, and the kernel killed it")
            self._kills[node] = kills
            self._joined.add(rank)
            if self._settled():
                self._lose()
                self._starts = 0
            self._changed.notify_all()
            return self._number

    async def down(self, outcome: Outcome) -> None:
        """The worker group has ended, and restarts unless the slot stops."""
        async with self._changed:
            self._joined.clear()
            self._starts += 1
            self._death = outcome
            if self._starts >= _STARTS:
                died = f"its workers died {_STARTS} times while they loaded the model"
                self._refused = Refusal(f"{died}: {outcome.reason}", final=True)
                self._lose()
            self._changed.notify_all()
            turn, start = self._turn, self._starts
            with suppress(TimeoutError):
                # Restarted workers may know more about the reason, but without its node a group may not come back.
                async with asyncio.timeout(_GRACE_SECONDS):
                    await self._changed.wait_for(lambda: self._settled() or self._starts != start)
            if turn is self._turn:
                self._lose()
                self._changed.notify_all()

    async def refuse(self, reason: str) -> None:
        """Called by a worker that cannot load the model or the data."""
        async with self._changed:
            self._refused = Refusal(reason, final=True)
            self._changed.notify_all()

    async def next_job(self, last: int, node: str, kills: int) -> tuple[int, Job] | None:
        """Wait for the first job after number `last`; None when the slot stops."""
        async with self._changed:
            self._kills[node] = kills
            await self._changed.wait_for(lambda: self._stopping or self._waiting(last))
            assert self._turn is not None or self._stopping
            return None if self._stopping or self._turn is None else (self._turn.number, self._turn.job)

    def _waiting(self, last: int) -> bool:
        return self._turn is not None and self._turn.outcome is None and self._turn.number > last

    async def answer(self, number: int, rank: int, outcome: Outcome) -> bool:
        """A rank has ended a job. Returns whether it can take the next one.

        A rank that fails alone leaves the others waiting in a collective; only a new worker group helps them. A rank
        that has lost another does not know why: the end of the group, which follows, tells.
        """
        if outcome.status == "lost":
            return False
        async with self._changed:
            turn = self._turn
            if turn is None or turn.number != number or turn.outcome is not None:
                return not outcome.failed  # too late: the job has ended without this rank
            turn.answers[rank] = outcome
            self._changed.notify_all()
            if not outcome.failed and len(turn.answers) < self._workers:
                return True
            together = outcome.status not in ("failed", "storage") and await self._all_answered(turn)
            turn.end(turn.agreed())
            if not together:
                self._joined.clear()  # the group goes down and returns under another name
            self._changed.notify_all()
            return together

    async def _all_answered(self, turn: _Turn) -> bool:
        try:
            async with asyncio.timeout(_GRACE_SECONDS):
                await self._changed.wait_for(lambda: len(turn.answers) == self._workers or turn.outcome is not None)
        except TimeoutError:
            return False
        return len(turn.answers) == self._workers and turn.agreed().status != "failed"

    # -- the driver's side

    async def ready(self) -> Refusal | None:
        """Wait until all workers have loaded the model; None then, or why they could not."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._refused is not None or self._settled())
            return self._refused

    async def execute(self, job: Job) -> Outcome:
        """Run a job to its end, one at a time."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._refused is not None or self._settled())
            if self._refused:
                return Outcome("lost", self._refused.reason)
            self._number += 1
            self._turn = turn = _Turn(self._number, job)
            self._death = None
            self._changed.notify_all()
            await self._changed.wait_for(lambda: turn.outcome is not None)
            assert turn.outcome is not None
            return turn.outcome

    async def finalized(self) -> bool:
        """Whether all workers have joined and wait for jobs."""
        return self._refused is None and self._settled()

    async def ended(self) -> None:
        """Wait for the end of the Ray Train run."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._refused is not None)

    async def stop(self) -> None:
        """Have the workers exit."""
        async with self._changed:
            self._stopping = True
            self._changed.notify_all()

    @property
    def _workers(self) -> int:
        return self._sweep.resources.workers_per_slot

    def _settled(self) -> bool:
        return len(self._joined) == self._workers

    def _lose(self) -> None:
        """End the job of a worker group that has died."""
        if self._turn is not None:
            self._turn.end(self._death or Outcome("lost", "the workers started again"))
