"""A worker's copies on its node: of this sweep and this driver, and no more than is needed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gallop_ray.disk.bucket import tree as trees
from gallop_ray.disk.bucket.address import copies, placed
from gallop_ray.disk.bucket.lease import LEASE_VARIABLE
from gallop_ray.disk.bucket.store import Bucket
from gallop_ray.disk.bucket.tree import present, tree_of
from gallop_ray.disk.whole import append, drafted
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.slots.copies import bring, bring_run, sent
from gallop_ray.slots.jobs import Outcome, RunJob
from tests.bucket.conftest import use_machine

On = Callable[[str, str], SweepFolder]


@pytest.fixture
def on(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> On:
    """A process on a machine, of the sweep that is run under a lease."""

    def enter(machine: str, lease: str) -> SweepFolder:
        trees._tree.cache_clear()
        use_machine(tmp_path / machine, monkeypatch)
        monkeypatch.setenv(LEASE_VARIABLE, lease)
        folder = SweepFolder(placed(f"{address}/sweep"))
        folder.path.mkdir(parents=True, exist_ok=True)
        Bucket(address).put("sweep/lease.json", json.dumps({"id": lease}).encode())
        return folder

    return enter


def _begin(folder: SweepFolder, accuracy: float) -> None:
    """What a driver writes before the first run."""
    tree = tree_of(folder.path)
    assert tree is not None
    tree.pull(folder.path)
    folder.create({"name": "sweep"})
    folder.configuration("gallop-1").create({"method": {"name": "gallop"}})
    folder.write_base({"maths": {"test": {"accuracy": accuracy}}}, {}, {}, 10 * accuracy)


def _tensors(run: RunFolder) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    for path in (run.adapter, run.checkpoint):
        with drafted(path) as draft:
            draft.write_bytes(b"tensors")


def test_nothing_is_left_of_an_earlier_sweep_of_the_same_address(address: str, on: On) -> None:
    for lease, accuracy in (("first", 0.5), ("second", 0.25)):
        for key in Bucket(address).list(""):  # as the user removes a sweep
            Bucket(address).delete(key)
        _begin(on("head", lease), accuracy)
        if lease == "first":
            with drafted(on("head", lease).path / "left.json") as draft:
                draft.write_text("{}")
        node = on("node", lease)
        bring(node)
        assert (node.path / "left.json").exists() == (lease == "first")
        bring_run(node, node.configuration("gallop-1"), 0)
        assert node.base_text_loss() == 10 * accuracy


def test_what_the_driver_writes_later_comes_with_each_run(on: On) -> None:
    _begin(on("head", "first"), 0.5)
    bring(on("node", "first"))
    on("head", "first").write_base({"maths": {"test": {"accuracy": 0.75}}}, {}, {}, 7.5)
    node = on("node", "first")
    bring(node)
    bring_run(node, node.configuration("gallop-1"), 0)
    assert node.base_text_loss() == 7.5


def test_beside_its_driver_a_worker_fetches_nothing_that_the_driver_writes(address: str, on: On) -> None:
    folder = on("head", "first")
    _begin(folder, 0.5)
    (folder.path / ".lease").write_text("first")
    append(folder.path / "results.jsonl", b"{}\n")
    Bucket(address).put("sweep/base_text.json", b"older")  # as if it were about to be replaced
    bring(folder)
    bring_run(folder, folder.configuration("gallop-1"), 0)
    assert folder.base_text_loss() == 5
    assert (folder.path / "results.jsonl").exists()


def test_the_tensors_of_finished_runs_leave_the_node(on: On) -> None:
    _begin(on("head", "first"), 0.5)
    node = on("node", "first")
    bring(node)
    finished, paused = (node.run("gallop-1", seed) for seed in (0, 1))
    for run, outcome in ((finished, Outcome("finished")), (paused, Outcome("paused"))):
        _tensors(run)
        assert not sent(node, RunJob("gallop-1", run.seed, 1), outcome).failed
    assert not finished.adapter.exists()
    assert not finished.checkpoint.exists()
    assert paused.checkpoint.exists()
    assert present(finished.adapter)
    assert finished.adapter.read_bytes() == b"tensors"
    bring(on("node", "second"))
    assert list(node.path.rglob("*.safetensors")) == []


def test_another_server_has_other_copies(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = copies(address, "work")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert copies(address, "work") != before
