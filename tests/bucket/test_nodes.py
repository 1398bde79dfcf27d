"""A sweep on Ray nodes that share no folder: each has copies of its own, and the bucket is all that they share."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from gallop_ray.training.models import model_source
from tests.bucket.server import BUCKET, Faulty, client, variables
from tests.bucket.sweeps import Machines, check_same, on_a_folder

pytestmark = pytest.mark.faults


@pytest.fixture
def machines(tmp_path: Path, server: str) -> Iterator[Machines]:
    proxy = Faulty(server)
    yield Machines(tmp_path, proxy.endpoint, server)
    proxy.close()


def private(tmp: Path, number: int) -> dict[str, str]:
    """A node's environment: copies in a folder of its own, and no keys: the driver gives them to its workers."""
    return {"GALLOP_RAY_BUCKET_CACHE": str(tmp / f"node-{number}"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def model_in_the_bucket(machines: Machines) -> dict[str, str]:
    """The pocket model as a folder there."""
    for file in Path(model_source("pocket")).iterdir():
        client(machines.server).put_object(Bucket=BUCKET, Key=f"models/pocket/{file.name}", Body=file.read_bytes())
    return {"name": f"s3://{BUCKET}/models/pocket"}


def test_three_nodes_that_share_nothing(machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the model."""
    machines = replace(machines, changes={"model": model_in_the_bucket(machines)})
    with monkeypatch.context() as here:
        for name, value in {**variables(machines.server), "GALLOP_RAY_BUCKET_CACHE": str(tmp_path / "plain")}.items():
            here.setenv(name, value)
        plain = on_a_folder(tmp_path / "folder", machines.changes)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": False,
            "env_vars": private(tmp_path, 0),
        },
    )
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setattr(Machines, "copies", property(lambda self: tmp_path / "node-0"))
    try:
        nodes = [cluster.add_node(num_cpus=1, env_vars=private(tmp_path, n)) for n in (1, 2)]
        doctor = machines.run("doctor", machines.sweep)
        assert "has conditional writes" in doctor.stdout, doctor.stdout
        process = machines.start("run", machines.sweep)
        until = time.monotonic() + 600
        while not any(key.endswith("checkpoint.safetensors") for key in machines.objects()):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.05)
        cluster.remove_node(nodes[0], allow_graceful=False)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output
        check_same(machines.downloaded(tmp_path / "downloaded"), plain)
        # Each had a folder of its own, and the workers' were not the driver's.
        assert (tmp_path / "node-0").is_dir()
        assert any((tmp_path / f"node-{n}").is_dir() for n in (1, 2))
        assert any(list((tmp_path / f"node-{n}").glob("*models-pocket*/input/*")) for n in (1, 2))
    finally:
        cluster.shutdown()
