"""The process of the command gallop-ray, also as `python -m gallop_ray`."""

import io
import os
import signal
import sys
from types import FrameType

from gallop_ray.importing import uncollected

_SIGNALLED, _INTERRUPTED, _BROKEN_PIPE, _TERMINATED = 128, 130, 141, 143


def command() -> None:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # do not fail on a terminal without ±
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with uncollected():  # inside try: it takes a second, in which an interrupt may come
            from gallop_ray.cli import main

        code = main(watch=True)
    except KeyboardInterrupt:
        print("\ngallop-ray: interrupted", file=sys.stderr)
        code = _INTERRUPTED
    except BrokenPipeError:  # the reader has closed the pipe, such as `| head`
        os._exit(_BROKEN_PIPE)
    if code > _SIGNALLED:
        # The MLflow thread may be in the middle of a request or an import; Python's normal shutdown would then print
        # tracebacks, wait, or abort.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> None:
    print("gallop-ray: terminated", file=sys.stderr)
    sys.exit(_TERMINATED)


if __name__ == "__main__":
    command()
