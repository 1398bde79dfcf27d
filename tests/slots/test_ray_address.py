"""Which Ray is used: one that is named, one that is noted and alive, or none."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gallop_ray.slots import ray_address
from gallop_ray.slots.ray_address import find_ray
from tests.sweep.command import run, write_sweep


@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `ray start` notes its cluster."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray/ray_current_cluster"


@pytest.fixture
def dead() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def stranger() -> Iterator[str]:
    """Something that listens and is no Ray."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("value", [None, "", " ", "local"])
def test_without_a_cluster_ray_is_started_here(note: Path, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is not None:
        monkeypatch.setenv("RAY_ADDRESS", value)
    found = find_ray()
    assert (found.is_local, found.stale) == (True, "")
    assert "on this machine" in found.text


def test_a_note_of_a_cluster_that_is_gone_is_ignored_with_a_line(note: Path, dead: str) -> None:
    note.write_text(f"{dead}\n")
    found = find_ray()
    assert found.is_local
    assert f"{dead}, noted in {note}, does not answer: ignored" in found.stale


@pytest.mark.parametrize("address", ["nowhere", "ray://nowhere", "auto"])
def test_an_address_without_a_cluster_is_refused_with_the_fix(
    note: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=f"{address}.*unset RAY_ADDRESS"):
        find_ray()


def test_a_password_in_an_address_is_not_shown(note: Path, dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"http://someone:secret@{dead}")
    with pytest.raises(ValueError, match=rf"http://\*\*\*@{dead}") as error:
        find_ray()
    assert "secret" not in str(error.value)


def test_what_listens_and_is_no_ray_is_refused_in_time(
    note: Path, stranger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_address, "_ANSWER_SECONDS", 2.0)
    monkeypatch.setenv("RAY_ADDRESS", stranger)
    begun = time.monotonic()
    with pytest.raises(ValueError, match="no Ray head"):
        find_ray()
    assert time.monotonic() - begun < 25


def test_run_refuses_a_dead_cluster_at_once_with_its_address(
    tmp_path: Path, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", dead)
    begun = time.monotonic()
    done = run("run", write_sweep(tmp_path))
    assert done.returncode == 2, done.stdout
    assert f"no Ray cluster at {dead}, which RAY_ADDRESS names: Connection refused" in done.stdout
    assert "Traceback" not in done.stdout
    assert time.monotonic() - begun < 200, "Ray itself would wait a quarter of an hour"
