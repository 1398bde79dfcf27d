"""Machines that die at a request to the bucket: the next one continues with exact books, and ends with the same."""

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from gallop_ray.records.folders import SweepFolder
from tests.bucket.server import Faulty
from tests.bucket.sweeps import Machines, check_same, on_a_folder
from tests.faults.books import Ledger
from tests.sweep import command

STEPS = {"training": {**command.TINY["training"], "steps": 6, "checkpoint_steps": 2}}


@dataclass(frozen=True)
class Point:
    """The machine dies at the next PUT of an object of this name."""

    name: str
    carried_out: bool
    """Whether the bucket has the object afterwards."""
    disk: bool
    """Whether the next machine finds the copies of this one."""


BEGINNING = ("tiny/spec.json", "configuration.json", "base_correct.json", "base.json")
OF_A_RUN = ("seed-0/spec.json", "checkpoint.safetensors", "metrics.jsonl", "adapter.safetensors", "result.json")
END = ("adapter.safetensors", "result.json", "results.jsonl")  # of the second run
POINTS = [
    Point(name, carried_out, disk=(number + carried_out) % 2 == 0)
    for number, name in enumerate((*BEGINNING, *OF_A_RUN, *END))
    for carried_out in (False, True)
]
FEW = [
    Point("checkpoint.safetensors", carried_out=True, disk=False),
    Point("adapter.safetensors", carried_out=True, disk=False),
    Point("result.json", carried_out=False, disk=True),
]


class Dying:
    """A fault of the proxy: from a request on nothing is answered, and `moment` is set."""

    def __init__(self, point: Point) -> None:
        self.point = point
        self.moment = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str) -> str | None:
        if self.moment.is_set():
            return "silent"
        if method != "PUT" or not unquote(urlsplit(path).path).endswith(self.point.name):
            return None
        with self._lock:
            first = not self.moment.is_set()
            self.moment.set()
        return "lost" if first and self.point.carried_out else "silent"


@pytest.fixture
def proxy(server: str) -> Iterator[Faulty]:
    faulty = Faulty(server)
    yield faulty
    faulty.close()


@pytest.mark.slow
def test_three_kills(tmp_path: Path, server: str, proxy: Faulty) -> None:
    assert survived(FEW, tmp_path, server, proxy) == len(FEW)


@pytest.mark.faults
def test_more_than_twenty_kills(tmp_path: Path, server: str, proxy: Faulty) -> None:
    assert survived(POINTS, tmp_path, server, proxy) >= 20


def survived(points: list[Point], tmp: Path, server: str, proxy: Faulty) -> int:
    """How many of the points came before the sweep had ended."""
    # The folder's name is the sweep's place in the bucket, which is that of both tests.
    machines, ledger, count = Machines(tmp / f"of-{tmp.name}", proxy.endpoint, server, changes=STEPS), Ledger(), 0
    for point in points:
        proxy.fault = dying = Dying(point)
        hit = machines.kill_when(dying.moment.is_set)
        proxy.fault = lambda method, path: None
        if hit and not point.disk:
            machines.lose()
        ledger.look(seen(machines, tmp / "seen"))
        count += hit
        print(f"{count}: {point if hit else f'no {point.name} came'}", flush=True)
    done = machines.run("resume", f"{machines.address}/tiny")
    assert done.returncode == 0, done.stdout
    found = seen(machines, tmp / "seen")
    ledger.look(found)
    check_same(found, on_a_folder(tmp / "folder", STEPS))
    _check_again(machines)
    return count


def _check_again(machines: Machines) -> None:
    """What is complete is run once more on yet another machine, and stays as it is."""
    machines.lose()
    before = machines.objects()
    again = machines.run("run", machines.sweep)
    assert again.returncode == 0, again.stdout
    results = {key: data for key, data in before.items() if key.endswith(("result.json", ".safetensors"))}
    assert {key: machines.objects()[key] for key in results} == results


def seen(machines: Machines, folder: Path) -> SweepFolder:
    """The sweep as it lies in the bucket now."""
    shutil.rmtree(folder, ignore_errors=True)
    return machines.downloaded(folder)
