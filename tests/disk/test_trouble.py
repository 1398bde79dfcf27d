"""What a storage refuses is one sentence: which file, what is wrong, what to do."""

import errno
import os
from pathlib import Path

import pytest

from gallop_ray.disk.trouble import described_trouble, is_disk_full, is_storage_trouble
from gallop_ray.errors import Halted
from gallop_ray.preflight.machine_checks import disk
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.machine import RetentionSpec
from gallop_ray.sweep.stop import refused_by_storage


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "there is no space left; make space"),
        (errno.EDQUOT, "this user's quota is used up; make space, or have the quota raised"),
        (errno.EROFS, "the storage is read-only; make it writable again, or give another folder as output"),
        (errno.EACCES, "this user has no permission; change its mode or owner, or give another folder as output"),
        (errno.EPERM, "this user has no permission; change its mode or owner, or give another folder as output"),
        (errno.EIO, "the storage fails (input/output error); look at the disk and at its mount"),
        (errno.ESTALE, "the storage has lost it (stale file handle); mount the storage again"),
    ],
)
def test_each_class_is_one_sentence_and_stops_the_sweep(tmp_path: Path, number: int, said: str) -> None:
    error = OSError(number, os.strerror(number), "/data/runs/a.json")
    assert is_storage_trouble(error)
    assert described_trouble(error) == f"/data/runs/a.json: {said}"
    halted = refused_by_storage(SweepFolder(tmp_path), RetentionSpec(), 3e6, error)
    assert isinstance(halted, Halted)
    assert str(halted).count("make space") == (number in (errno.ENOSPC, errno.EDQUOT))
    assert ("are free" if number == errno.ENOSPC else f"a.json: {said}") in str(halted)
    assert refused_by_storage(SweepFolder(tmp_path), RetentionSpec(), 3e6, halted) is halted, "no nested sentence"


def test_a_library_says_it_in_words_alone() -> None:
    error = RuntimeError("I/O error: Read-only file system (os error 30)")
    assert is_storage_trouble(error)
    assert not is_disk_full(error)
    assert described_trouble(error, "/data/a") == (
        "/data/a: the storage is read-only; make it writable again, or give another folder as output"
    )
    assert not is_storage_trouble(RuntimeError("something else"))
    assert not is_storage_trouble(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))


def test_doctor_does_on_the_storage_what_a_run_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [found.level for found in disk(str(tmp_path / "runs"))] != ["problem"]
    assert not list(tmp_path.iterdir())

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    (found,) = disk(str(tmp_path / "runs"))
    assert found.level == "problem"
    assert "without file locks" in found.text
    assert not list(tmp_path.iterdir())
