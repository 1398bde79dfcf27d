"""The slot pool: owns the slots and leases them to trials, so that no trial's fate ever starts or ends one."""

import asyncio
from typing import Any

import ray
from ray._raylet import PlacementGroupID
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from gallop_ray.sweep.slot import Slot


@ray.remote(num_cpus=0)
class SlotPool:
    """Leases slots, first come first served. A slot that died is replaced, its placement group removed."""

    def __init__(self, slots: int, sweep: str, folder: str) -> None:
        self._sweep, self._folder = sweep, folder
        self._free: asyncio.Queue[str] = asyncio.Queue()
        self._slots: dict[str, Any] = {}
        self._groups: dict[str, str | None] = {}
        self._started = 0
        self._refused: asyncio.Future[str] = asyncio.get_event_loop().create_future()
        for _ in range(slots):
            self._start()

    def _start(self) -> None:
        name = f"slot-{self._started}"
        self._started += 1
        self._slots[name] = Slot.remote(name, self._sweep, self._folder)
        self._task = asyncio.get_event_loop().create_task(self._bring_up(name))

    async def _bring_up(self, name: str) -> None:
        slot = self._slots[name]
        try:
            await slot.start.remote()
            refused = await slot.ready.remote()
        except RayActorError as error:
            refused = str(error)
        if refused is None:
            self._free.put_nowait(name)
        elif not self._refused.done():
            self._refused.set_result(refused)

    async def refused(self) -> str:
        """Waits for ever, or until a slot could not start: then the reason."""
        return await asyncio.shield(self._refused)

    async def lease(self) -> tuple[str, Any]:
        """A free slot's name and handle; waits for one."""
        while True:
            name = await self._free.get()
            try:
                # The group is remembered, because a slot that is killed while Ray's dashboard is off leaks it.
                alive, self._groups[name] = await self._slots[name].state.remote()
            except RayActorError:
                alive = False
            if alive:
                return name, self._slots[name]
            await self.give_back(name, alive=False)

    async def give_back(self, name: str, alive: bool) -> None:
        """End a lease. A slot that is not alive is replaced."""
        if alive:
            self._free.put_nowait(name)
            return
        slot = self._slots.pop(name)
        ray.kill(slot)
        _remove(self._groups.pop(name, None))
        self._start()

    async def stop(self) -> None:
        """End all slots and free their resources."""
        slots = list(self._slots.values())
        await asyncio.gather(*(slot.stop.remote() for slot in slots), return_exceptions=True)
        states = await asyncio.gather(*(slot.state.remote() for slot in slots), return_exceptions=True)
        for slot, state in zip(slots, states, strict=True):
            ray.kill(slot)
            _remove(None if isinstance(state, BaseException) else state[1])


def _remove(group: str | None) -> None:
    if group:
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group)))
