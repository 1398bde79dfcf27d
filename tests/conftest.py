"""Fixtures that several test folders share."""

from collections.abc import Callable, Iterator

import pytest

from tests.ranks import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Callable[[int], Ranks]]:
    """`ranks(n)`: n gloo ranks, started once and shared by all tests. A group that failed a test is replaced."""
    groups: dict[int, Ranks] = {}

    def get(world: int) -> Ranks:
        if world in groups and groups[world].broken:
            groups.pop(world).stop()
        if world not in groups:
            groups[world] = Ranks(world)
        return groups[world]

    yield get
    for group in groups.values():
        group.stop()
