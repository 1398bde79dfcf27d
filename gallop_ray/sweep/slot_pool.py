"""Starts Ray and the slot pool, watches Ray's processes, and shuts both down."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray

from gallop_ray.compat.probe import DRIVER, probe_all
from gallop_ray.compat.ray import ended_process
from gallop_ray.disk.bucket.address import address_of
from gallop_ray.errors import Halted, UserError
from gallop_ray.records import control
from gallop_ray.records.folders import SweepFolder
from gallop_ray.slots.cluster import connect, count_slots, leave
from gallop_ray.slots.nodes import node_troubles
from gallop_ray.slots.pool import start_pool
from gallop_ray.slots.ray_address import find_ray
from gallop_ray.spec.plan import plan_sweep
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.secrets import without_secrets

_LOOK_SECONDS = 0.2
_NAMES = {"raylet": "raylet", "gcs_server": "head (gcs_server)"}


class RayGone(Halted):
    """One of Ray's own processes has ended: any call of Ray now hangs, or ends this process."""


@contextmanager
def watching_ray(end: Callable[[RayGone], None]) -> Iterator[None]:
    """Context manager: calls `end` once if the raylet or the head that this process has started ends."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(end, over), name="ray-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()  # else it might take Ray's shutdown, which comes next, for a failure


def _watch(end: Callable[[RayGone], None], over: threading.Event) -> None:
    while not over.wait(_LOOK_SECONDS):
        if (reason := gone()) is not None:
            end(reason)
            return


def gone() -> RayGone | None:
    """Which of the Ray processes started by this one has ended, and how; None while all run."""
    ended = ended_process(_NAMES)
    if ended is None:
        return None
    name, code = ended
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return RayGone(f"Ray's {name} has ended ({how})")


@contextmanager
def slot_pool(
    sweep: Sweep, folder: SweepFolder, verbose: bool, note: Callable[[str], None], end: Callable[[Exception], None]
) -> Iterator[Any]:
    """Context manager: joins or starts Ray and starts the slots; ends all of it on exit.

    end: called from another thread when Ray loses one of its own processes.

    Raises UserError where no slot fits, Halted where Ray cannot be started or joined.
    """
    _join(verbose, note)
    try:
        if troubles := node_troubles(address_of(folder.path)):
            raise UserError("\n".join(map(str, troubles)))
        with watching_ray(end), _pool(sweep, folder, note) as pool:
            yield pool
    finally:
        if gone() is None:  # else calls of what is left of Ray never return
            leave()


def _join(verbose: bool, note: Callable[[str], None]) -> None:
    try:
        probe_all(DRIVER)
        found = find_ray()
    except ValueError as error:
        raise UserError(str(error)) from None
    for line in filter(None, (found.stale, found.text)):
        note(line)
    try:
        connect(found, verbose)
    except Exception as error:  # of many classes, mostly of a machine that is too busy to start it in time
        what = "Ray did not start" if found.is_local else f"the Ray cluster at {found.name} cannot be joined"
        raise Halted(f"{what}: {str(error).strip().rstrip('.') or type(error).__name__}") from error


@contextmanager
def _pool(sweep: Sweep, folder: SweepFolder, note: Callable[[str], None]) -> Iterator[Any]:
    most = plan_sweep(sweep, None).configurations
    try:
        slots = min(count_slots(sweep.resources), most)
    except ValueError as error:
        raise UserError(str(error)) from None
    control.note_slots(folder, slots)
    workers = sweep.resources.workers_per_slot
    note(f"starting {slots} slot{'s' * (slots > 1)} of {workers} worker{'s' * (workers > 1)}")
    pool = start_pool(most, without_secrets(sweep).model_dump_json(), address_of(folder.path))
    try:
        yield pool
    except KeyboardInterrupt:
        raise  # there is no time to stop the slots, which end with the job
    except BaseException:
        _stop(pool)
        raise
    _stop(pool)


def _stop(pool: Any) -> None:
    if gone() is None:
        with suppress(ray.exceptions.RayError):  # what is left of the slots ends with the job
            ray.get(pool.stop.remote(), timeout=20)
