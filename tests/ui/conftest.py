"""A real browser for what is looked at in one: Debian's chromium, driven by playwright, without the network."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A playwright Browser."""
    from playwright.sync_api import sync_playwright

    program = os.environ.get("GALLOP_RAY_BROWSER") or next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.fail("no browser found; install chromium, or name one in GALLOP_RAY_BROWSER")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=_QUIET)
        yield opened
        opened.close()
