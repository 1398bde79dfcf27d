"""The slot pool: owns the slots and leases them to trials; slots live independently of any trial."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gallop_ray.compat.ray import is_dead, remove_orphaned_groups
from gallop_ray.disk.bucket.address import VARIABLES, is_bucket, placed
from gallop_ray.disk.bucket.lease import LEASE_VARIABLE, holder_of
from gallop_ray.slots.cluster import possible_slots
from gallop_ray.slots.jobs import Refusal
from gallop_ray.slots.slot import Slot, Work
from gallop_ray.spec.references import addresses
from gallop_ray.spec.registry import STORED
from gallop_ray.spec.schema import Sweep

_LOG = logging.getLogger(__name__)
_ENTRUSTED = re.compile("HF_TOKEN")
_ENTRUSTED_WITH_A_BUCKET = re.compile(f"HF_TOKEN|{VARIABLES}")
_PLAN_SECONDS = 5.0
_ROOM_SECONDS = 1.0
_PENDING = 4  # slots that wait for nodes, at most: each costs two processes in the meantime
_END_SECONDS = 5.0
_FAILURES = 3  # slots in a row that could not start, before the pool gives up


@ray.remote(num_cpus=0)  # it only coordinates, and must not take a CPU from the workers
class SlotPool:
    """Leases slots, first come, first served, and follows the cluster: more slots when nodes join, fewer when they go.

    A dead slot is replaced, and its placement group removed, which Ray does not do while its dashboard is off.

    most: how many slots there is work for.
    variables: for the environment of the workers.
    """

    def __init__(
        self, most: int, sweep: str, folder: str, work: Work | None = None, variables: Mapping[str, str] | None = None
    ) -> None:
        self._arguments = (sweep, folder, work, variables)
        self._resources = Sweep.model_validate_json(sweep, context=STORED).resources
        self._left = most
        self._changed = asyncio.Condition()
        self._slots: dict[str, Any] = {}
        self._free: list[str] = []
        self._leased: dict[str, str | None] = {}
        self._started = self._failures = 0
        self._begun = False
        """Whether some slot has ever been ready."""
        self._refused: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn(self._follow())

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_event_loop().create_task(work)
        self._tasks.add(task)  # asyncio itself holds tasks weakly: one may vanish half-way
        task.add_done_callback(self._tasks.discard)

    # -- what the trials ask

    async def lease(self, lessee: str | None = None, rather: str | None = None) -> tuple[str, Any] | str:
        """Wait for a free slot; its name and handle, or why there will not be one.

        lessee: id of the actor whose death ends the lease, too. rather: the slot to take if it is free.
        """
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._free or (self._refused and not self._slots))
                if not self._free:
                    return str(self._refused)
                name = rather if rather in self._free else self._free[0]
                self._free.remove(name)
                self._leased[name] = lessee  # at once: _settle() frees what is neither free nor leased
            slot = self._slots[name]
            # Outside of the lock, and asked now: it may have died since it became free.
            try:
                finalized = await slot.finalized.remote()
            except RayActorError:
                finalized = False
            if finalized:
                return name, slot
            await self.give_back(name)

    async def give_back(self, name: str) -> None:
        """End a lease; the slot may be dead by now."""
        self._leased.pop(name, None)
        self._spawn(self._settle(name))

    # -- what the driver asks

    async def size(self) -> int:
        """The number of slots, including those that are still starting."""
        return len(self._slots)

    async def shrink(self, left: int) -> None:
        """No new trials will come, and only `left` are active."""
        self._left = left
        self._replan()

    async def stop(self) -> None:
        """End all slots and free their resources."""
        self._left = 0
        for task in self._tasks:
            task.cancel()
        slots = list(self._slots.values())
        await asyncio.gather(*(slot.stop.remote() for slot in slots), return_exceptions=True)
        for slot in slots:
            ray.kill(slot)
        remove_orphaned_groups()  # groups of actors that are not dead yet Ray removes when the job ends

    # -- its own

    async def _follow(self) -> None:
        while True:
            try:
                self._replan()
            except Exception:
                _LOG.exception("the number of slots stays as it is")  # such as Ray being busy with a node's end
            await asyncio.sleep(_PLAN_SECONDS)

    def _replan(self) -> None:
        remove_orphaned_groups()
        # A trial that died cannot give its slot back.
        for name in [name for name, lessee in self._leased.items() if lessee and is_dead(lessee)]:
            self._leased.pop(name)
            self._spawn(self._settle(name))
        now, later = possible_slots(self._resources)
        wanted = min(self._left, max(now, min(later, len(self._slots) + _PENDING)))
        pending = len(self._slots) - len(self._free) - len(self._leased)
        while len(self._slots) < wanted and (len(self._slots) < now or pending < _PENDING) and not self._refused:
            self._start()
            pending += 1
        # An autoscaler removes the nodes of slots that are no longer needed; slots not ready yet go first.
        spare = sorted(self._slots.keys() - self._leased.keys(), key=lambda name: name in self._free)
        for name in spare[: max(0, len(self._slots) - self._left)]:
            self._retire(name)

    def _start(self) -> None:
        name = f"slot-{self._started}"
        self._started += 1
        self._slots[name] = Slot.remote(name, *self._arguments)
        self._slots[name].start.remote()
        self._spawn(self._settle(name))

    async def _settle(self, name: str) -> None:
        """Free a slot as soon as all of its workers are ready; replace a dead one."""
        slot = self._slots.get(name)
        if slot is None:
            return
        try:
            refused = await slot.ready.remote()
        except RayActorError as error:
            refused = Refusal(str(error), final=False)
        if name not in self._slots:  # retired or dropped while it was getting ready
            return
        async with self._changed:
            if refused is None:
                self._failures, self._begun = 0, True
                if name not in self._free and name not in self._leased:
                    self._free.append(name)
            else:
                self._drop(name)
                self._fail(refused)
            self._changed.notify_all()
        if refused is not None:
            self._replan()

    def _fail(self, refused: Refusal) -> None:
        self._failures += 1
        hopeless = refused.final and not self._begun
        if self._failures >= _FAILURES or hopeless:
            self._refused = refused.reason
        if hopeless:
            for name in list(self._slots):
                self._drop(name)

    def _drop(self, name: str) -> None:
        if name in self._free:
            self._free.remove(name)
        ray.kill(self._slots.pop(name))

    def _retire(self, name: str) -> None:
        """End a slot that is not leased; its workers get the chance to exit by themselves."""
        if name in self._free:
            self._free.remove(name)
        self._spawn(_end(self._slots.pop(name)))


async def _end(slot: Any) -> None:
    with suppress(RayActorError, TimeoutError):
        await slot.stop.remote()
        await asyncio.wait_for(slot.ended.remote(), _END_SECONDS)
    ray.kill(slot)


class Room:
    """How many trials the pool can serve, as the driver sees it."""

    def __init__(self, pool: Any) -> None:
        self._pool, self._slots, self._asked = pool, 1, 0.0

    def slots(self) -> int:
        """The pool's size, at least 1; refreshed after a second, because Tune asks in every step of its loop."""
        if time.monotonic() - self._asked > _ROOM_SECONDS:
            self._slots, self._asked = max(1, ray.get(self._pool.size.remote())), time.monotonic()
        return self._slots

    def shrink(self, left: int) -> None:
        """No new trials will come, and only `left` are active."""
        self._pool.shrink.remote(left)


def credentials(*places: str) -> dict[str, str]:
    """What processes on any node take over from the driver's environment to use these places, paths or addresses.

    Not in the job's runtime environment, which Ray logs in plain text.
    """
    names = _ENTRUSTED_WITH_A_BUCKET if any(map(is_bucket, places)) else _ENTRUSTED
    return {name: value for name, value in os.environ.items() if names.fullmatch(name)}


def entrusted(folder: str, sweep: Sweep) -> dict[str, str]:
    """The same for processes of a sweep; in a bucket they write under the driver's lease."""
    holder = holder_of(placed(folder)) if is_bucket(folder) else None
    return credentials(folder, *addresses(sweep).values()) | ({LEASE_VARIABLE: holder} if holder else {})


def start_pool(most: int, sweep: str, folder: str, work: Work | None = None) -> Any:
    """A pool on the driver's own node, so that it lives as long as the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    variables = entrusted(folder, Sweep.model_validate_json(sweep, context=STORED))
    return SlotPool.options(scheduling_strategy=here).remote(most, sweep, folder, work, variables)
