"""What Tune is handed, and what becomes of configurations whose trials die."""

from collections.abc import Iterator
from typing import Any

import pytest
from ray import cloudpickle
from ray.tune.search import Searcher

from gallop_ray.sweep.searcher import SlotSearcher
from gallop_ray.sweep.stop import HALTED


class Room:
    """Two slots."""

    def __init__(self) -> None:
        self.left: int | None = None

    def slots(self) -> int:
        return 2

    def shrink(self, left: int) -> None:
        self.left = left


@pytest.fixture
def room() -> Room:
    return Room()


def searcher(room: Any, keys: str = "abc", over: bool = True, **options: Any) -> SlotSearcher:
    left: Iterator[str] = iter(keys)
    return SlotSearcher("search", lambda: next(left, None), lambda key: over, room, **options)


def key(found: SlotSearcher, trial: str) -> str:
    return str(found.suggest(trial)["key"])


def test_no_more_than_there_is_room_for(room: Room) -> None:
    found = searcher(room)
    assert (key(found, "1"), key(found, "2"), found.suggest("3")) == ("a", "b", None)
    found.on_trial_complete("1", {})
    assert key(found, "3") == "c"
    found.on_trial_complete("2", {})
    assert found.suggest("4") is None, "what is under way may have to be handed out again"
    assert room.left == 1
    found.on_trial_complete("3", {})
    assert found.suggest("4") == Searcher.FINISHED


def test_a_configuration_whose_trial_died_is_handed_out_again_a_few_times(room: Room) -> None:
    found = searcher(room, "a")
    for trial in ("1", "2", "3"):
        assert key(found, trial) == "a"
        found.on_trial_complete(trial, error=True)
    assert found.suggest("4") == Searcher.FINISHED
    assert room.left == 0


def test_a_trial_that_was_told_to_stop_ends_the_search(room: Room) -> None:
    found = searcher(room, over=False)
    key(found, "1"), key(found, "2")
    found.on_trial_complete("1", {})
    assert found.suggest("3") == Searcher.FINISHED
    found.on_trial_complete("2", error=True)
    assert found.suggest("3") == Searcher.FINISHED


def test_what_halts_the_sweep_is_no_end_of_the_search(room: Room) -> None:
    found = searcher(room, over=False)
    key(found, "1")
    found.on_trial_complete("1", {HALTED: "the disk is full"})
    assert key(found, "2") == "b"


def test_nothing_begins_after_the_deadline(room: Room) -> None:
    assert searcher(room, deadline=0.0, spare=2).suggest("1") == Searcher.FINISHED
    assert room.left == 2


def test_what_tune_stores_of_it_holds_nothing_of_the_studies(room: Room) -> None:
    secret = "a-password-of-the-studies-database"
    asked = SlotSearcher("search", lambda: secret, lambda key: bool(secret), room)  # type: ignore[arg-type]
    assert key(asked, "one") == secret
    assert secret.encode() not in cloudpickle.dumps(asked)
