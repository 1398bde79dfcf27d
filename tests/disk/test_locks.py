"""Locks are flock's; a storage without them is named at once, and readers need none."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gallop_ray.cli import main
from gallop_ray.disk.locks import Lock, NoLocks, is_held
from gallop_ray.records import control
from tests.sweep.written import Written, small_sweep


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As Lustre without -o flock, NFS without its lock service, and others answer."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", refuse)
        yield


def test_a_lock_excludes_another_until_it_is_released(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert first.acquire(timeout=0)
    assert not second.acquire(timeout=0.1)
    assert is_held(tmp_path / "lock")
    first.release()
    assert not is_held(tmp_path / "lock")
    assert second.acquire(timeout=0)
    second.release()


@pytest.mark.usefixtures("without_locks")
def test_a_storage_without_locks_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoLocks, match=r"without file locks .*mount it with them .*or give another folder as output"):
        Lock(tmp_path / "lock").acquire(timeout=1)


def test_commands_on_a_storage_without_locks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], without_locks: None
) -> None:
    folder = str(Written(small_sweep(tmp_path)).folder.path)
    assert main(["status", folder]) == 0
    assert main(["retry", folder, "--failed"]) == 2
    said = capsys.readouterr().err
    assert "without file locks" in said
    assert "another process" not in said


def test_a_driver_is_seen_by_its_lock(tmp_path: Path) -> None:
    written = Written(small_sweep(tmp_path))
    assert control.driver(written.folder) is None
    with control.alone(written.folder):
        control.begin(written.folder)
        assert control.driver(written.folder)
    assert control.driver(written.folder) is None
