"""Sweeps whose output is a bucket: as on a folder, from any machine, after any loss."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gallop_ray.records.folders import SweepFolder
from tests.bucket.server import Faulty, now_and_then
from tests.bucket.sweeps import Machines, check_same, on_a_folder, planted

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    return on_a_folder(tmp_path_factory.mktemp("plain") / "folder")


@pytest.fixture
def machines(tmp_path: Path, server: str) -> Iterator[Machines]:
    proxy = Faulty(server)
    yield Machines(tmp_path, proxy.endpoint, server)
    proxy.close()


def test_equal_to_a_folder_and_seen_from_another_machine(
    plain: SweepFolder, tmp_path: Path, machines: Machines
) -> None:
    done = machines.run("run", machines.sweep)
    assert done.returncode == 0, done.stdout
    assert f"records: {machines.address}/tiny" in done.stdout
    check_same(machines.downloaded(tmp_path / "downloaded"), plain)
    assert planted(tmp_path) == []
    machines.lose()
    sweep = f"{machines.address}/tiny"
    status = json.loads(machines.run("status", sweep, "--json").stdout)
    assert (status["runs"]["finished"], status["driver"]) == (2, None)
    best = machines.run("best", sweep)
    assert f"gallop-ray export {sweep}/" in best.stdout, best.stdout


@pytest.mark.long
def test_with_faults(plain: SweepFolder, tmp_path: Path, server: str) -> None:
    proxy = Faulty(server)
    proxy.fault = now_and_then(seed=2, share=0.1)
    machines = Machines(tmp_path, proxy.endpoint, server)
    done = machines.run("run", machines.sweep)
    proxy.close()
    assert done.returncode == 0, done.stdout
    check_same(machines.downloaded(tmp_path / "downloaded"), plain)


def test_a_wrong_bucket_is_refused_before_anything_is_spent(machines: Machines) -> None:
    done = machines.run("run", machines.sweep, "--set", "output=s3://no-such-bucket/x")
    assert done.returncode == 2, done.stdout
    assert "NoSuchBucket" in done.stdout
    assert "give a bucket that exists as output" in done.stdout
