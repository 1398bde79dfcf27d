"""A bucket that is away: what waits for it is not sent once the sweep is another's, and nothing else has to wait."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gallop_ray.disk.bucket import lease as leases
from gallop_ray.disk.bucket import tree as trees
from gallop_ray.disk.bucket.address import copies
from gallop_ray.disk.bucket.lease import LEASE_VARIABLE, Lease, LeaseLost, borrow
from gallop_ray.disk.bucket.tree import Tree, tree_of
from gallop_ray.disk.regular import remove
from gallop_ray.disk.whole import append, drafted
from gallop_ray.records import control
from gallop_ray.records.folders import SweepFolder
from tests.bucket.conftest import use_machine
from tests.bucket.server import Faulty, objects


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "VALID_SECONDS", 3.0)
    monkeypatch.setattr(leases, "_RENEW_SECONDS", 0.5)
    monkeypatch.setattr(leases, "_LOOK_SECONDS", 0.2)
    monkeypatch.setattr(leases, "_UNDER_WAY_SECONDS", 0.2)


def _place(address: str) -> tuple[Path, Tree]:
    folder = copies(address, "work") / "sweep"
    folder.mkdir(exist_ok=True)
    tree = tree_of(folder)
    assert tree is not None
    return folder, tree


def _write(path: Path, text: str) -> None:
    with drafted(path) as draft:
        draft.write_text(text)


def _flushed(path: Path) -> None:
    """As a worker does, under the driver's lease."""
    tree = tree_of(path)
    assert tree is not None
    tree.held = True
    _write(path, "old")
    tree.flush()


WRITES: dict[str, Callable[[Path], None]] = {
    "write": lambda path: _write(path, "old"),
    "remove": remove,
    "flush": _flushed,
}


@pytest.mark.parametrize("name", WRITES)
def test_what_waited_for_the_bucket_is_not_sent_after_a_takeover(
    name: str, address: str, proxy: Faulty, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tree = _place(address)
    first = Lease(tree, folder)
    first.acquire()
    _write(folder / "status.json", "before")
    if name == "flush":
        monkeypatch.setenv(LEASE_VARIABLE, first.id)
        borrow(folder)
    proxy.fault = lambda method, path: "dropped"
    raised: list[BaseException] = []

    def write() -> None:
        try:
            WRITES[name](folder / "status.json")
        except LeaseLost as error:
            raised.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    use_machine(tmp_path / "second", monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)  # whose network works
    other, its = _place(address)
    second = Lease(its, other)
    second.acquire()
    _write(other / "status.json", "new")
    proxy.fault = lambda method, path: None
    thread.join(60)
    assert raised
    found = objects(server, f"{tmp_path.name}/sweep/status.json")
    assert list(found.values()) == [b"new"]
    first.release()
    second.release()


@pytest.mark.parametrize("fault", ["503", "silent"])
def test_an_interrupt_ends_a_driver_while_the_bucket_is_away(fault: str, address: str, proxy: Faulty) -> None:
    folder = SweepFolder(copies(address, "work") / "sweep")
    interrupted: list[float] = []

    def drive() -> None:
        with control.alone(folder):
            append(folder.path / "results.jsonl", b"{}\n")
            proxy.fault = lambda method, path: fault
            time.sleep(2 * leases.VALID_SECONDS / 3)  # the lease has to be asked for again
            interrupted.append(time.monotonic())
            raise KeyboardInterrupt

    def attempt() -> None:
        with pytest.raises(KeyboardInterrupt):
            drive()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert time.monotonic() - interrupted[0] < 30


def test_a_worker_that_shares_waits_for_a_limited_time(
    address: str, proxy: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other ranks wait in a collective meanwhile."""
    monkeypatch.setattr(trees, "SHARE_SECONDS", 1.0)
    folder, tree = _place(address)
    first = Lease(tree, folder)
    first.acquire()
    monkeypatch.setenv(LEASE_VARIABLE, first.id)
    borrow(folder)
    append(folder / "metrics.jsonl", b"{}\n")
    proxy.fault = lambda method, path: "503"
    thread = threading.Thread(target=tree.share, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    first.release()
