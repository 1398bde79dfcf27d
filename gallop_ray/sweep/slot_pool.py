"""Ray and the slot pool, from the start of the one to the end of the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray

from gallop_ray.spec.plan import plan_sweep
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.secrets import without_secrets
from gallop_ray.sweep.cluster import connect, count_slots, leave
from gallop_ray.sweep.halt import Halted
from gallop_ray.sweep.pool import start_pool
from gallop_ray.sweep.ray_address import find_ray
from gallop_ray.sweep.ray_watch import gone, watching_ray
from gallop_ray.tracking import control
from gallop_ray.tracking.records import SweepFolder


class UserError(ValueError):
    """The sweep cannot run as it was asked for; the message says what to change."""


@contextmanager
def slot_pool(
    sweep: Sweep, folder: SweepFolder, verbose: bool, note: Callable[[str], None], end: Callable[[Exception], None]
) -> Iterator[Any]:
    """Join or start Ray, and start the slots; all of it ends with this.

    end: called from another thread when Ray loses a process of its own.

    Raises UserError where no slot fits, Halted where Ray cannot be had.
    """
    _join(verbose, note)
    try:
        with watching_ray(end), _pool(sweep, folder, note) as pool:
            yield pool
    finally:
        if gone() is None:  # what is asked of the rest of it then never comes back
            leave()


def _join(verbose: bool, note: Callable[[str], None]) -> None:
    try:
        found = find_ray()
    except ValueError as error:
        raise UserError(str(error)) from None
    for line in filter(None, (found.stale, found.text)):
        note(line)
    try:
        connect(found, verbose)
    except Exception as error:  # of many classes, mostly of a machine that is too busy to start it in time
        what = "Ray did not start" if found.is_local else f"the Ray cluster at {found.address} cannot be joined"
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
    pool = start_pool(most, without_secrets(sweep).model_dump_json(), str(folder.path))
    try:
        yield pool
    except KeyboardInterrupt:
        raise  # there is no time; slots end with the job
    except BaseException:
        _stop(pool)
        raise
    _stop(pool)


def _stop(pool: Any) -> None:
    if gone() is None:
        with suppress(ray.exceptions.RayError):  # what is left of the slots ends with the job
            ray.get(pool.stop.remote(), timeout=20)
