"""Runs to export, trained once for all tests."""

from collections.abc import Callable

import pytest

from tests.exports.trained import Trained, save_base, train


@pytest.fixture(scope="session")
def trained(ranks: Callable, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("export")
    made = Trained(folder / "base", folder / "runs")
    made.base.mkdir()
    save_base(made.base)
    for dtype in ("float32", "bfloat16"):
        ranks(1)(train, made.base, made.output, dtype)
    return made
