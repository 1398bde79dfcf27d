"""A server for each test file, and a bucket of its own for each test by its prefix."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gallop_ray.disk.bucket import tree as trees
from tests.bucket.server import BUCKET, Faulty, s3_server, variables


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def proxy(server: str) -> Iterator[Faulty]:
    faulty = Faulty(server)
    yield faulty
    faulty.close()


@pytest.fixture
def address(proxy: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty place in the bucket, reached through the proxy; copies in a folder of the test."""
    for name, value in variables(proxy.endpoint).items():
        monkeypatch.setenv(name, value)
    use_machine(tmp_path / "first", monkeypatch)
    yield f"s3://{BUCKET}/{tmp_path.name}"
    trees._tree.cache_clear()


def use_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Continue as if on another machine, whose copies are in this folder."""
    monkeypatch.setenv("GALLOP_RAY_BUCKET_CACHE", str(folder))
