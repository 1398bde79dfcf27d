"""Ray's own processes on this machine, watched: without one of them nothing of Ray answers any more.

Ray itself waits, 14 s for its raylet and a minute for its head (gcs_server), and then ends this process from C++.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray._private import worker as ray_worker

from gallop_ray.sweep.halt import Halted

_LOOK_SECONDS = 0.2
_NAMES = {"raylet": "raylet", "gcs_server": "head (gcs_server)"}


class RayGone(Halted):
    """One of Ray's own processes has ended: whatever is asked of Ray now hangs, or ends this process."""


@contextmanager
def watching_ray(end: Callable[[RayGone], None]) -> Iterator[None]:
    """While this is open `end` is called, once, when the raylet or the head that this process has started has ended."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(end, over), name="ray-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()  # else it might take the end that Ray is now going to come to for another


def _watch(end: Callable[[RayGone], None], over: threading.Event) -> None:
    while not over.wait(_LOOK_SECONDS):
        if (reason := gone()) is not None:
            end(reason)
            return


def gone() -> RayGone | None:
    """Which of Ray's processes that this one has started has ended, and how; None while they run.

    Ray tells of its processes in no public way.
    """
    node: Any = ray_worker._global_node
    for kind, name in _NAMES.items():
        for started in node.all_processes.get(kind, []) if node is not None else []:
            code = started.process.poll()
            if code is not None:
                how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
                return RayGone(f"Ray's {name} has ended ({how})")
    return None
