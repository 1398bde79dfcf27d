"""Whether a bucket can be reached and has what sweeps need; and waiting that ends whatever a network does."""

import threading
import uuid
from collections.abc import Callable, Sequence

from gallop_ray.disk.bucket.errors import BucketTrouble, silent
from gallop_ray.disk.bucket.store import Bucket

_REACH_SECONDS = 20.0


def within(seconds: float, work: Callable[[], None]) -> bool:
    """Do something in a thread of its own and wait for it so long at most. Whether it has ended; raises its error."""
    ended: list[BaseException | None] = []

    def attempt() -> None:
        try:
            work()
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if ended and ended[0] is not None:
        raise ended[0]
    return bool(ended)


def at_once(works: Sequence[Callable[[], None]]) -> None:
    """Do things at the same time and wait for all of them; raises the error of the first that has one.

    Waiting can be interrupted: what is tried until a bucket is back keeps no process alive.
    """
    if len(works) == 1:
        works[0]()
        return
    errors: list[BaseException | None] = [None] * len(works)

    def attempt(number: int) -> None:
        try:
            works[number]()
        except BaseException as error:
            errors[number] = error

    threads = [threading.Thread(target=attempt, args=(number,), daemon=True) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in filter(None, errors):
        raise error


def reach(address: str, patience: float = _REACH_SECONDS) -> None:
    """Try with objects of our own all that a sweep asks of a bucket. Raises BucketTrouble, with the fix."""
    # Looking for credentials where a cloud's machines have them may take minutes elsewhere.
    if not within(2 * patience, lambda: _try_everything(Bucket(address), patience)):
        raise silent(address, "the bucket, or whoever gives credentials for it, does not answer")


def _try_everything(bucket: Bucket, patience: float) -> None:
    bucket.patience = patience
    folder = f".tried-{uuid.uuid4().hex}"  # of its own: listing the sweeps that are there already may take minutes
    key = f"{folder}/k"
    first = bucket.create(key, b"first")
    try:
        second = bucket.create(key, b"second")
        third = None if first is None else bucket.swap(key, b"third", first)
        fourth = None if first is None else bucket.swap(key, b"fourth", first)
        there = bucket.get(key)
        listed = key in bucket.list(folder)
    finally:
        bucket.delete(key)
    if first is None or second is not None or third is None or fourth is not None:
        what = "the storage has no conditional writes (If-None-Match, If-Match), so that two drivers could not be kept"
        raise BucketTrouble(bucket.address, f"{what} apart; give a bucket that has them")
    if there is None or there[0] != b"third" or not listed:
        raise BucketTrouble(bucket.address, "the storage does not give back what was just written; give another bucket")
