"""What a slot makes of its workers' answers and deaths, without Ray: two ranks that do as the test says."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gallop_ray.slots import slot as module
from gallop_ray.slots.jobs import Outcome, RunJob
from tests.slots.test_pool import sweep

JOB = RunJob("gallop-1", 0, 4)
FINE = Outcome("finished", result={"loss": 1.0})
NO_MEMORY = Outcome("out_of_memory", "no memory")
KILLED = Outcome("lost", "a worker died")


class Ranks:
    """A slot whose two workers have joined, and a job that they have begun."""

    def __init__(self) -> None:
        plain = module.Slot.__ray_metadata__.modified_class  # type: ignore[attr-defined]
        self.slot = plain("slot-0", sweep(workers_per_slot=2).model_dump_json(), "folder")

    async def begin(self, group: str = "first", kills: int = 0) -> "asyncio.Task[Outcome]":
        await self.join(group, kills)
        job = asyncio.create_task(self.slot.execute(JOB))
        for _ in range(2):
            assert (await self.slot.next_job(self.slot._number - 1, "node", kills))[1] == JOB
        return job

    async def join(self, group: str, kills: int = 0) -> None:
        for rank in range(2):
            await self.slot.join(rank, group, "node", kills)

    async def answer(self, *outcomes: Outcome) -> list[bool]:
        """Of ranks 0, 1, ...: whether each goes on."""
        return await asyncio.gather(*(self.slot.answer(self.slot._number, r, o) for r, o in enumerate(outcomes)))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Ranks], Coroutine[Any, Any, None]]], None]:
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.2)

    async def bounded(scene: Callable[[Ranks], Coroutine[Any, Any, None]]) -> None:
        await asyncio.wait_for(scene(Ranks()), 30)

    return lambda scene: asyncio.run(bounded(scene))


@pytest.mark.parametrize("first", [NO_MEMORY, Outcome("diverged", "nan"), Outcome("refused", "too dense")])
def test_ranks_that_fail_alike_go_on(play: Any, first: Outcome) -> None:
    async def scene(ranks: Ranks) -> None:
        for _ in range(2):
            job = await ranks.begin()
            assert await ranks.answer(first, first) == [True, True]
            assert await job == first

    play(scene)


def test_a_rank_that_fails_alone_needs_a_fresh_group(play: Any) -> None:
    async def scene(ranks: Ranks) -> None:
        job = await ranks.begin()
        assert await ranks.answer(NO_MEMORY) == [False]
        assert await job == NO_MEMORY
        assert not await ranks.slot.finalized()
        assert not await ranks.slot.answer(1, 1, Outcome("failed", "connection closed")), "rank 1 is too late"
        assert await (await finished(ranks, "second")) == FINE

    play(scene)


def test_a_rank_that_has_lost_another_does_not_say_why(play: Any) -> None:
    async def scene(ranks: Ranks) -> None:
        job = await ranks.begin()
        assert await ranks.answer(Outcome("lost", "connection closed by peer")) == [False]
        assert not job.done()
        down = asyncio.create_task(ranks.slot.down(KILLED))
        await asyncio.sleep(0)
        await ranks.join("second", kills=1)
        await down
        assert (await job).status == "out_of_memory"

    play(scene)


async def finished(ranks: Ranks, group: str) -> "asyncio.Task[Outcome]":
    job = await ranks.begin(group)
    assert await ranks.answer(FINE, FINE) == [True, True]
    return job


def test_a_failure_counts_where_another_rank_finished(play: Any) -> None:
    async def scene(ranks: Ranks) -> None:
        job = await ranks.begin()
        assert await ranks.slot.answer(1, 1, FINE)
        full = Outcome("storage", "No space left on device")
        assert await ranks.slot.answer(1, 0, full) is False
        assert await job == full

    play(scene)


def test_an_unknown_failure_takes_the_group_down_at_once(play: Any) -> None:
    async def scene(ranks: Ranks) -> None:
        job = await ranks.begin()
        failed = Outcome("failed", "KeyError: 'x'")
        assert await ranks.answer(failed, failed) == [False, False]
        assert await job == failed

    play(scene)


def test_a_death_is_told_when_the_group_is_back(play: Any) -> None:
    async def scene(ranks: Ranks) -> None:
        job = await ranks.begin()
        down = asyncio.create_task(ranks.slot.down(KILLED))
        await asyncio.sleep(0)
        await ranks.join("second")
        assert await job == KILLED
        await down
        assert await (await finished(ranks, "second")) == FINE

    play(scene)


def test_the_kernel_killed_it_for_want_of_memory(play: Any) -> None:
    async def scene(ranks: Ranks) -> None:
        job = await ranks.begin(kills=3)
        down = asyncio.create_task(ranks.slot.down(KILLED))
        await asyncio.sleep(0)
        await ranks.join("second", kills=4)
        assert (await job).status == "out_of_memory"
        await down

    play(scene)


def test_a_group_that_does_not_come_back_holds_nobody_up(play: Any) -> None:
    async def scene(ranks: Ranks) -> None:
        job = await ranks.begin()
        await ranks.slot.down(Outcome("preempted", "a node was taken away"))
        assert (await job).status == "preempted"
        assert not await ranks.slot.finalized()

    play(scene)


def test_workers_that_die_while_they_load_are_refused_after_three_starts(play: Any) -> None:
    async def scene(ranks: Ranks) -> None:
        ready = asyncio.create_task(ranks.slot.ready())
        for _ in range(3):
            await ranks.slot.down(KILLED)
        refused = await ready
        assert refused.final
        assert "died 3 times" in refused.reason
        assert (await ranks.slot.execute(JOB)).status == "lost"

    play(scene)


def test_workers_are_given_the_variables_that_ray_would_log(play: Any) -> None:
    async def scene(ranks: Ranks) -> None:
        assert await ranks.slot.variables() == {}
        plain = module.Slot.__ray_metadata__.modified_class  # type: ignore[attr-defined]
        slot = plain("slot-0", sweep().model_dump_json(), "folder", None, {"HF_TOKEN": "hf_planted"})
        assert await slot.variables() == {"HF_TOKEN": "hf_planted"}
        assert "hf_planted" not in slot._sweep.model_dump_json()

    play(scene)
