"""Fixtures that several test folders share."""

import os
import re
import signal
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gallop_ray.testing.ranks import Ranks


def pytest_configure(config: pytest.Config) -> None:
    """Processes of pytest-xdist do not see each other's Ray: each has a folder of its own, with a short path.

    What tests start can be interrupted: a shell's job in the background inherits that SIGINT is ignored. A GPU is seen
    by the tests that are marked for it alone: the others are to do the same on every machine. Of as many threads as
    torch takes here, sums are not bitwise those of the ranks that tests start, which have one each.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    if not re.search(r"(?<!not )\bgpu\b", config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before anything imports what looks for one
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="r", dir="/tmp")  # sockets lie in it
        config.add_cleanup(folder.cleanup)
        os.environ["RAY_TMPDIR"] = folder.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts a process group takes long."""
    for item in items:
        if "ranks" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def ranks() -> "Callable[[int], Ranks]":
    """`ranks(n)`: n gloo ranks, started once and shared by all tests. A group that failed a test is replaced."""
    from gallop_ray.testing.ranks import shared_ranks

    return shared_ranks
