"""The process beside a sweep's that has the last word, and what keeps other libraries' text off the terminal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

_WATCHED = """
import os, signal, sys, time
from gallop_ray.cli.watched import watched

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which tests may run, ignores it

def work(word):
    print("begun", flush=True)
    {work}

sys.exit(watched(work))
"""
_APART = """
import logging, os, sys, threading
from contextlib import suppress
from pathlib import Path
from gallop_ray.cli.apart import libraries_apart

with libraries_apart(Path(sys.argv[1])) as terminal:
    print("Python's noise")
    print("Python's warning", file=sys.stderr)
    for descriptor, text in ((1, b"noise of C\\n"), (2, b"trouble of C\\n")):
        with suppress(OSError):
            os.write(descriptor, text)
    threading.Thread(target=lambda: 1 / 0).start()
    logging.getLogger("other").error("another library's")
    logging.getLogger("gallop_ray.some").warning("our %s", "warning")
    terminal.out.write("our progress\\n")
print("after")
print("the end", file=sys.stderr)
"""


def start(script: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [
        ("return 0", 0, ""),
        ("return 2", 2, ""),
        ("word.stopped('there is a reason'); return 1", 1, "stopped: there is a reason"),
        ("os._exit(1)", 1, "stopped: the sweep's process ended with code 1"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 1, "stopped: the sweep's process was killed by SIGKILL"),
        ("os.abort()", 1, "stopped: the sweep's process died by SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, "terminated"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
    ],
)
def test_every_end_has_its_code_and_one_sentence(work: str, code: int, said: str) -> None:
    process = start(_WATCHED.format(work=work))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "begun\n"), err
    assert err.strip().startswith(said)
    assert err.count("The same command resumes the sweep.") == (1 if said else 0)


@pytest.mark.parametrize(
    ("number", "work", "code", "said"),
    [
        (signal.SIGTERM, "time.sleep(60)", 143, "terminated"),
        (signal.SIGINT, "time.sleep(60)", 130, "interrupted"),
        (signal.SIGHUP, "time.sleep(60)", 143, "terminated"),
        # As Ray does, which takes the signal for itself.
        (signal.SIGTERM, "signal.signal(15, lambda *_: os.abort()); time.sleep(60)", 143, "terminated"),
        (signal.SIGTERM, "signal.signal(15, lambda *_: os._exit(15)); time.sleep(60)", 143, "terminated"),
        # Busy, and done only after the sentence was due.
        (signal.SIGTERM, "signal.signal(15, signal.SIG_IGN); time.sleep(4); word.say('late'); return 1", 143, "termin"),
    ],
)
def test_a_signal_has_its_code_and_one_sentence(number: int, work: str, code: int, said: str) -> None:
    process = start(_WATCHED.format(work=work))
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.3)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert err.strip().startswith(said)
    assert len(err.strip().splitlines()) == 1, err


def test_a_reader_that_has_gone_is_no_failure(tmp_path: Path) -> None:
    """`plan` prints by rich, `schema` by itself; neither says a word."""
    (tmp_path / "sweep.yaml").write_text(
        "name: a\nmodel: {name: pocket}\ndata: {root: generated, train: range}\nmethods: [{type: full}]\n"
    )
    for command in (["plan", str(tmp_path / "sweep.yaml")], ["schema"]):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-m", "gallop_ray", *command], stdout=write, stderr=subprocess.PIPE, text=True
        )
        os.close(write)
        assert (done.returncode, done.stderr) == (141, "")


def test_whoever_kills_the_command_kills_the_sweep() -> None:
    process = start(_WATCHED.format(work="time.sleep(60)"))
    assert process.stdout is not None
    process.stdout.readline()
    (child,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs([child], timeout=10)
    assert not alive


def test_only_what_is_ours_reaches_the_terminal(tmp_path: Path) -> None:
    process = start(_APART, str(tmp_path / "sweep"))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "our progress\nafter\n")
    assert err == "our warning\nthe end\n"
    said = (tmp_path / "sweep/libraries.log").read_text()
    for words in ("Python's noise", "Python's warning", "noise of C", "trouble of C", "ZeroDivisionError", "another"):
        assert words in said


def test_a_full_disk_fails_nobody_who_prints(tmp_path: Path) -> None:
    (tmp_path / "libraries.log").symlink_to("/dev/full")
    process = start(_APART, str(tmp_path))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "our progress\nafter\n", "our warning\nthe end\n")
