"""A terminal that has fewer characters than what is said."""

from pathlib import Path

import pytest

from tests.sweep.command import run, write_sweep


def test_characters_that_the_terminal_lacks_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    sweep = write_sweep(tmp_path).rename(tmp_path / "größe.yaml")
    done = run("validate", sweep)
    assert done.returncode == 0, done.stdout
    assert "gr??e.yaml: fine" in done.stdout
    done = run("validate", tmp_path / "fehlt-±.yaml")
    assert done.returncode == 2, done.stdout
    assert "fehlt-?.yaml" in done.stdout
