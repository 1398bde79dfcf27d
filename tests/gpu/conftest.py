"""Tests with a device: the same code runs on the CPU in `make test` and, with the mark `gpu`, on a GPU."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gallop_ray.testing.ranks import Ranks

# A machine may have what training needs, and not what a sweep needs.
collect_ignore = [] if find_spec("ray") else ["test_sweep.py"]
# Interpreted, Triton must know before it is imported (make test-kernel); compiled, it needs a GPU.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this process cannot run: the kernel without Triton or a device that it runs on."""
    possible = {"cpu": _INTERPRETED, "cuda": not _INTERPRETED} if find_spec("triton") else {}
    dropped = [item for item in items if "kernel" in item.fixturenames and not possible.get(_device_of(item))]  # type: ignore[attr-defined]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def _device_of(item: Any) -> str:
    return str(item.callspec.params["device"])


@pytest.fixture(scope="session", autouse=True)
def _gpu(request: pytest.FixtureRequest) -> None:
    """Asked for a GPU, fail clearly without one."""
    import torch

    asked = any(item.get_closest_marker("gpu") for item in request.session.items)
    if asked and not torch.cuda.is_available():
        pytest.exit("tests of the mark gpu need a GPU, and torch sees none here", returncode=2)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The device that a test runs on."""
    return str(request.param)


@pytest.fixture
def kernel(device: str) -> Any:
    """The module of the kernel."""
    from gallop_ray.sparse import sampled_product

    return sampled_product


@pytest.fixture
def ranks_on(device: str) -> "Callable[[int], Ranks]":
    """`ranks_on(n)`: n ranks on the test's device, started once and shared by all tests."""
    from gallop_ray.testing.ranks import shared_ranks

    return lambda world: shared_ranks(world, "nccl" if device == "cuda" else "gloo")
