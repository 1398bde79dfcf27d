"""Runs a sweep in a child process, with a parent that has the last word.

Ray terminates its process itself, in C++, when one of its own processes is gone, and handles SIGTERM itself while it
starts. Then no Python code in that process can say what has happened, or choose the exit code.
"""

import atexit
import ctypes
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

AGAIN = "What was finished is kept. The same command resumes the sweep."
FAILED, INTERRUPTED, TERMINATED = 1, 130, 143
_BROKEN_PIPE = 141
_HUNG_UP = signal.SIGHUP
"""The terminal is gone, or a job manager says goodbye: as if terminated."""
_ENDS = {signal.SIGINT: ("interrupted", INTERRUPTED), signal.SIGTERM: ("terminated", TERMINATED)}
_SAY_SECONDS = 2.5  # `ray job stop` kills after three
_KILL_SECONDS = 30.0
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG
_RUNNING = 255
_CODE, _SAID, _LOG, _SIZE = 0, 1, 2, 4096


def watched(work: Callable[["LastWord"], int]) -> int:
    """Run `work` in a child process and return its exit code; if it died without one, print why and return the right
    code.

    Call this before any thread is started. Signals are passed to the child; killing this process kills both.
    """
    word = LastWord()
    # Or both processes would write what is still buffered.
    sys.stdout.flush()
    sys.stderr.flush()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        _live_with(parent)
        word.code = code = _worked(work, word)
        _leave(code)
    return _Watch(child, word).wait()


def _leave(code: int) -> NoReturn:
    """End this process without Python's shutdown, in which what is left of Ray may hang, abort, or print.

    It also takes two seconds. What libraries do at the end of a process, they do after success.
    """
    if code == 0:
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class LastWord:
    """Shared by both processes: the sweep's exit code, whether its end has been reported, and its log."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, _SIZE)
        self._shared[_CODE] = _RUNNING

    @property
    def code(self) -> int | None:
        """The sweep's exit code; None while it runs."""
        code = self._shared[_CODE]
        return None if code == _RUNNING else code

    @code.setter
    def code(self, code: int) -> None:
        self._shared[_CODE] = code

    @property
    def log(self) -> str:
        """The file with the output of libraries; empty where there is none."""
        return os.fsdecode(self._shared[_LOG:].rstrip(b"\0"))

    @log.setter
    def log(self, path: Path) -> None:
        name = os.fsencode(path)
        self._shared[_LOG : _LOG + len(name)] = name

    def say(self, sentence: str) -> None:
        """Print a sentence, unless the other process has reported the end."""
        if not self._shared[_SAID]:
            self._shared[_SAID] = 1
            print(sentence, file=sys.stderr, flush=True)

    def stopped(self, reason: str) -> None:
        """Report that the sweep has stopped by itself, and where to find details."""
        where = f" What Ray and other libraries said is in {self.log}" if self.log else ""
        self.say(f"stopped: {reason}. {AGAIN}{where}")


def _worked(work: Callable[[LastWord], int], word: LastWord) -> int:
    try:
        return work(word)
    except KeyboardInterrupt:
        word.say(f"\ninterrupted. {AGAIN}")
        return INTERRUPTED
    except BrokenPipeError:
        return _BROKEN_PIPE


def _live_with(parent: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A terminal's Ctrl-C must reach this process once: only through the other, which passes it on.
    os.setpgid(0, 0)
    # In a group of its own it is in the terminal's background, where writing may stop a process.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGKILL)
    if os.getppid() != parent:  # it died before prctl could ask for the signal
        os._exit(FAILED)


class _Watch:
    """The parent's side."""

    def __init__(self, child: int, word: LastWord) -> None:
        self._child, self._word = child, word
        self._told: signal.Signals | None = None

    def wait(self) -> int:
        """Wait until the child has ended."""
        for number in (*_ENDS, _HUNG_UP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # ignored under nohup, and in a script
                signal.signal(number, self._pass_on)
        signal.signal(signal.SIGTSTP, self._pause)
        _, status = os.waitpid(self._child, 0)
        code = self._word.code
        if code is None and os.WIFSIGNALED(status) and os.WTERMSIG(status) in _ENDS:
            self._told = self._told or signal.Signals(os.WTERMSIG(status))
        if self._told and code in (None, FAILED):
            self._say_told()
            return _ENDS[self._told][1]
        if code is None:
            self._word.stopped(f"the sweep's process {_how(status)}")
            return FAILED
        return code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        number = signal.SIGTERM if number == _HUNG_UP else number
        self._send(number)
        if self._told is None:
            self._told = signal.Signals(number)
            for seconds, act in ((_SAY_SECONDS, self._say_told), (_KILL_SECONDS, lambda: self._send(signal.SIGKILL))):
                timer = threading.Timer(seconds, act)
                timer.daemon = True
                timer.start()

    def _say_told(self) -> None:
        assert self._told is not None
        self._word.say(f"{_ENDS[self._told][0]}. {AGAIN}")

    def _pause(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z stops both."""
        self._send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._child, number)


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"was killed by {name}, by the system where memory is short" if name == "SIGKILL" else f"died by {name}"
    return f"ended with code {os.WEXITSTATUS(status)}, as Ray ends it where one of its own processes is gone"
