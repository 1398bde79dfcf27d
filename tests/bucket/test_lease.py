"""Leases: one driver at a time, and what becomes of one that falls silent."""

import threading
from pathlib import Path

import pytest

from gallop_ray.disk.bucket import lease as leases
from gallop_ray.disk.bucket.address import copies
from gallop_ray.disk.bucket.lease import Lease, LeaseLost, is_leased
from gallop_ray.disk.bucket.tree import Tree
from gallop_ray.disk.whole import drafted
from tests.bucket.conftest import use_machine
from tests.bucket.server import Faulty


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "VALID_SECONDS", 3.0)
    monkeypatch.setattr(leases, "_RENEW_SECONDS", 0.5)
    monkeypatch.setattr(leases, "_LOOK_SECONDS", 0.2)
    monkeypatch.setattr(leases, "_AGAIN_SECONDS", 0.2)
    monkeypatch.setattr(leases, "_UNDER_WAY_SECONDS", 0.2)
    monkeypatch.setattr(leases, "_SEEN_SECONDS", 2.0)


@pytest.fixture
def machines(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Tree]:
    """The same place on two machines."""
    found = []
    for name in ("first", "second"):
        use_machine(tmp_path / name, monkeypatch)
        tree = Tree(copies(address, "work"))
        (tree.root / "sweep").mkdir()
        found.append(tree)
    return found


def lease(tree: Tree) -> Lease:
    return Lease(tree, tree.root / "sweep")


def test_one_at_a_time(machines: list[Tree]) -> None:
    first, second = map(lease, machines)
    first.acquire()
    assert is_leased(machines[1], machines[1].root / "sweep")
    with pytest.raises(ValueError, match=r"is being run by process \d+ on .*; stop that first"):
        second.acquire()
    first.release()
    assert not is_leased(machines[1], machines[1].root / "sweep")
    second.acquire()
    second.release()


@pytest.mark.parametrize("seconds", [-600, -61, 61, 600])
def test_a_running_one_is_seen_by_a_machine_whose_clock_differs(
    machines: list[Tree], monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    first = lease(machines[0])
    first.acquire()
    age = leases._age
    monkeypatch.setattr(leases, "_age", lambda stored: age(stored) + seconds)
    monkeypatch.setattr(leases, "_is_gone", lambda held: False)
    assert is_leased(machines[1], machines[1].root / "sweep")
    first._over.set()  # it falls silent; a renewal may be under way, which one more look then finds to be the last
    assert not all(is_leased(machines[1], machines[1].root / "sweep") for _ in range(2))


def test_a_silent_owner_is_followed_and_writes_nothing_more(machines: list[Tree]) -> None:
    first, second = map(lease, machines)
    first.acquire()
    told = threading.Event()
    first.told = lambda error: told.set()
    first._lock.acquire()  # as if its machine stood still
    second.acquire()
    first._lock.release()
    assert told.wait(10)
    with pytest.raises(LeaseLost, match="taken over"):
        first.check()
    second.check()
    first.release()
    second.check()
    second.release()


def test_of_many_that_come_at_once_one_wins(machines: list[Tree]) -> None:
    won: list[Lease] = []

    def race(tree: Tree) -> None:
        mine = lease(tree)
        try:
            mine.acquire()
        except ValueError:
            return
        won.append(mine)

    threads = [threading.Thread(target=race, args=(machines[number % 2],)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(won) == 1
    won[0].release()


def test_an_outage_costs_no_lease(machines: list[Tree], proxy: Faulty) -> None:
    first = lease(machines[0])
    first.acquire()
    proxy.fault = lambda method, path: "503"
    threading.Event().wait(2 * leases.VALID_SECONDS)
    proxy.fault = lambda method, path: None
    first.check()
    with drafted(machines[0].root / "sweep" / "spec.json") as draft:
        draft.write_text("{}")
    first.release()


def test_a_dead_process_of_this_machine_is_not_waited_for(
    machines: list[Tree], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = map(lease, machines)
    with monkeypatch.context() as dead:
        dead.setattr(leases, "_started", lambda pid: "in another life")
        first.acquire()
        first._over.set()
    second.acquire()
    assert [each for each in caplog.records if each.name.startswith("gallop_ray")] == []  # no word of waiting
    second.release()
