"""Files appear whole or not at all, as the umask has them, and nothing of a killed writer stays."""

import os
import signal
import stat
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from gallop_ray.disk.whole import append, drafted, remove_drafts
from gallop_ray.records.files import append_line, parse_lines
from gallop_ray.records.folders import SweepFolder
from gallop_ray.sparse.adapter import save_adapter
from gallop_ray.sparse.checked import save_checked
from tests.small_disk import mounted


def test_adapters_and_scores_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_adapter(tmp_path / "adapter.safetensors", {}, {}, {"base_hash": "0"})
        save_checked(tmp_path / "scores.safetensors", {"a": torch.zeros(2)})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o640}


@pytest.mark.slow
def test_an_adapter_is_synchronised_before_it_is_renamed_into_place(tmp_path: Path) -> None:
    program = f"""
        import os, sys, torch
        from pathlib import Path
        from gallop_ray.sparse.adapter import save_adapter
        calls = []
        real = os.fsync
        os.fsync = lambda descriptor: (calls.append(os.readlink(f"/proc/self/fd/{{descriptor}}")), real(descriptor))[1]
        sys.addaudithook(lambda event, found: calls.append("rename") if event == "os.rename" else None)
        save_adapter(Path({str(tmp_path)!r}) / "adapter.safetensors", {{}}, {{}}, {{"base_hash": "0"}})
        print(*calls, sep="\\n")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    first, *rest = done.stdout.splitlines()
    assert first.endswith("/adapter.safetensors"), "the content comes first"
    assert rest == ["rename", str(tmp_path)], "then the name, then the folder"


@pytest.mark.slow
def test_what_a_killed_writer_leaves_is_removed_by_the_next_attempt(tmp_path: Path) -> None:
    configuration = SweepFolder(tmp_path).configuration("gallop-1")
    configuration.create({})
    run = configuration.run(0)
    run.start({}, "slot-0")
    program = f"""
        import torch
        from pathlib import Path
        from gallop_ray.sparse.checked import save_checked
        print("ready", flush=True)
        while True:
            save_checked(Path({str(run.checkpoint)!r}), {{"state": torch.zeros(5_000_000)}})
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        writer.stdout.readline()
        while not any(name.startswith(".") for name in os.listdir(run.path)):
            pass
        writer.send_signal(signal.SIGKILL)
    (run.path / ".tmpAbC123").write_bytes(b"of safetensors, by an earlier version")
    run.start({}, "slot-0")
    run.finish({"status": "finished"})
    assert not [name for name in os.listdir(run.path) if name.startswith(".")]


def test_drafts_of_one_file_alone_are_removed(tmp_path: Path) -> None:
    for name in (".a.safetensors.7.8.tmp", ".b.safetensors.7.8.tmp"):
        (tmp_path / name).mkdir()
    remove_drafts(tmp_path, of="a.safetensors")
    assert os.listdir(tmp_path) == [".b.safetensors.7.8.tmp"]


def test_a_line_is_appended_whole_or_not_at_all(tmp_path: Path) -> None:
    """The disk fills up in the middle of a line; the next one is whole again."""
    with mounted(tmp_path / "small", megabytes=1) as disk:
        lines = disk / "metrics.jsonl"
        while not lines.exists() or lines.stat().st_size < 4096 - 60:
            append_line(lines, {"event": "step"})
        before, fill = lines.stat().st_size, disk / "fill"
        with suppress(OSError), fill.open("wb", buffering=0) as file:
            while file.write(b"\0" * 65536):
                pass
        with pytest.raises(OSError, match="space") as error:
            append_line(lines, {"event": "phase", "more": "x" * 200})
        assert error.value.filename == str(lines)
        assert lines.stat().st_size == before
        fill.unlink()
        append_line(lines, {"event": "run_ended"})
        assert parse_lines(lines.read_bytes()).records[-1] == {"event": "run_ended"}


@pytest.mark.parametrize("torn", [b'{"event": "st', b"\0" * 5000, b"x" * 9000])
def test_half_a_line_at_the_end_is_cut_off_before_the_next(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "lines"
    append(path, b'{"a": 1}\n')
    path.write_bytes(path.read_bytes() + torn)
    append(path, b'{"b": 2}\n')
    assert path.read_bytes() == b'{"a": 1}\n{"b": 2}\n'


def test_what_the_storage_refuses_names_the_file(tmp_path: Path) -> None:
    missing = tmp_path / "gone" / "a.json"
    with pytest.raises(FileNotFoundError) as error, drafted(missing):
        pass
    assert error.value.filename == str(missing)
