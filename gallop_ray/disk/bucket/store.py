"""Requests to a bucket: whole objects, create-if-absent and compare-and-swap, retried while the bucket is away."""

import errno
import logging
import random
import re
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gallop_ray.disk.bucket.address import is_installed

_LOG = logging.getLogger(__name__)
_SILENT_SECONDS = 5.0
_LONGEST_PAUSE = 30.0
_REACH_SECONDS = 20.0
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d+)")
_PASSING = (408, 409, 425, 429)
_CHUNK = 8 << 20
_FIX = (
    "give a bucket that exists as output, and credentials that may read, write, list and delete there: by "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the machine's role, AWS_REGION, AWS_ENDPOINT_URL"
)

T = TypeVar("T")


class BucketTrouble(OSError):
    """A bucket refuses what is asked, or is away for longer than could be waited. A whole sentence with the fix."""

    def __init__(self, address: str, what: str) -> None:
        super().__init__(errno.EREMOTEIO, what, address)


class BucketAway(BucketTrouble):
    """It does not answer, or says that it cannot now."""


class Stored(NamedTuple):
    """An object: its version, its size in bytes, and when it was written by the bucket's clock."""

    tag: str
    size: int
    modified: datetime


class Bucket:
    """What lies below an address. Keys are relative to it.

    Every request waits for a bucket that is away, with one warning, unless `patience` (seconds) limits that; then
    BucketAway. BucketTrouble where it refuses, with the fix.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.patience: float | None = None
        """Of requests that give none themselves."""
        self._opened: Any = None

    @property
    def _store(self) -> Any:
        if self._opened is None:
            if not is_installed():
                raise BucketTrouble(self.address, "buckets need obstore: pip install 'gallop_ray[cloud]'")
            from obstore.store import from_url

            pause = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2)}
            retries: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=20), "backoff": pause}
            options: Any = {"allow_http": True, "connect_timeout": "5s", "timeout": "120s"}
            self._opened = from_url(self.address, client_options=options, retry_config=retries)
        return self._opened

    def get(self, key: str, patience: float | None = None) -> tuple[bytes, Stored] | None:
        """A whole object; None where there is none."""
        import obstore

        def read() -> tuple[bytes, Stored]:
            found = obstore.get(self._store, key)
            data = bytes(found.bytes())
            if len(data) != found.meta["size"]:
                raise ConnectionError(f"{len(data)} of {found.meta['size']} bytes came")
            return data, _stored(found.meta)

        return self._unless_missing(read, patience)

    def fetch(self, key: str, file: Path, patience: float | None = None) -> Stored | None:
        """Write an object to a file, whole; None where there is none."""
        import obstore

        def read() -> Stored:
            found, size = obstore.get(self._store, key), 0
            with file.open("wb") as out:
                for chunk in found.stream(min_chunk_size=_CHUNK):
                    size += out.write(chunk)
            if size != found.meta["size"]:
                raise ConnectionError(f"{size} of {found.meta['size']} bytes came")
            return _stored(found.meta)

        return self._unless_missing(read, patience)

    def head(self, key: str, patience: float | None = None) -> Stored | None:
        """An object without its contents; None where there is none."""
        import obstore

        return self._unless_missing(lambda: _stored(obstore.head(self._store, key)), patience)

    def list(self, prefix: str, patience: float | None = None) -> dict[str, Stored]:
        """All objects whose keys begin with a prefix, which ends at a slash."""
        import obstore

        def read() -> dict[str, Stored]:
            pages = obstore.list(self._store, prefix=prefix.strip("/") or None)
            return {each["path"]: _stored(each) for page in pages for each in page}

        return self._patiently(read, patience)

    def put(self, key: str, source: bytes | Path, patience: float | None = None) -> str:
        """Replace an object as a whole; its new version."""
        import obstore

        return self._patiently(lambda: _tag(obstore.put(self._store, key, source)), patience)

    def create(self, key: str, data: bytes, patience: float | None = None) -> str | None:
        """Create an object; None where there is one already. `data` must be like no other writer's."""
        return self._if(key, data, "create", patience)

    def swap(self, key: str, data: bytes, tag: str, patience: float | None = None) -> str | None:
        """Replace the version `tag` of an object; None where there is another by now. `data` as for `create`."""
        return self._if(key, data, {"e_tag": tag}, patience)

    def delete(self, key: str, patience: float | None = None) -> None:
        """Remove an object, if there is one."""
        import obstore

        self._unless_missing(lambda: obstore.delete(self._store, key), patience)

    def _if(self, key: str, data: bytes, mode: Any, patience: float | None) -> str | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        def write() -> str | None:
            try:
                return _tag(obstore.put(self._store, key, data, mode=mode, use_multipart=False))
            except (AlreadyExistsError, PreconditionError):
                # A retried request may have met what its own first try had written, whose answer was lost.
                there = self.get(key, patience)
                if there is not None and there[0] == data:
                    return there[1].tag
                wanted = None if mode == "create" else mode["e_tag"]
                if (None if there is None else there[1].tag) == wanted:
                    raise ConnectionError("two writers met") from None  # 409: neither has won
                return None

        return self._patiently(write, patience)

    def _unless_missing(self, work: Callable[[], T], patience: float | None) -> T | None:
        try:
            return self._patiently(work, patience)
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._refused(error) from None
            return None

    def _patiently(self, work: Callable[[], T], patience: float | None) -> T:
        pause, begun, said = 0.25, time.monotonic(), False
        patience = self.patience if patience is None else patience
        while True:
            try:
                found = work()
                if said:
                    _LOG.warning("%s answers again; the sweep continues", self.address)
                return found
            except (BucketTrouble, FileNotFoundError) as error:
                if isinstance(error, FileNotFoundError) and "NoSuchBucket" in str(error):
                    raise self._refused(error) from None
                raise
            except Exception as error:
                if not _passes(error):
                    if isinstance(error, OSError):  # of this machine's disk
                        raise
                    raise self._refused(error) from None
                waited = time.monotonic() - begun
                if patience is not None and waited + pause > patience:
                    raise BucketAway(self.address, f"the bucket does not answer ({_reason(error)}); {_FIX}") from None
                if waited > _SILENT_SECONDS and not said:
                    said = True
                    _LOG.warning(
                        "%s does not answer (%s); the sweep waits for it, nothing that has finished is lost",
                        self.address,
                        _reason(error),
                    )
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _refused(self, error: Exception) -> BucketTrouble:
        return BucketTrouble(self.address, f"the bucket refuses this ({_reason(error)}); {_FIX}")


def reach(address: str, patience: float = _REACH_SECONDS) -> None:
    """Try with objects of our own all that a sweep asks of a bucket. Raises BucketTrouble, with the fix."""
    found: list[OSError | None] = []

    def attempt() -> None:
        try:
            _try_everything(Bucket(address), patience)
            found.append(None)
        except OSError as error:
            found.append(error)

    # A thread: looking for credentials where a cloud's machines have them may take minutes elsewhere.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(2 * patience)
    if not found:
        raise BucketAway(address, f"the bucket, or whoever gives credentials for it, does not answer; {_FIX}")
    if found[0] is not None:
        raise found[0]


def _try_everything(bucket: Bucket, patience: float) -> None:
    bucket.patience = patience
    key = f".tried-{uuid.uuid4().hex}"
    first = bucket.create(key, b"first")
    try:
        second = bucket.create(key, b"second")
        third = None if first is None else bucket.swap(key, b"third", first)
        fourth = None if first is None else bucket.swap(key, b"fourth", first)
        there = bucket.get(key)
        listed = key in bucket.list("")
    finally:
        bucket.delete(key)
    if first is None or second is not None or third is None or fourth is not None:
        what = "the storage has no conditional writes (If-None-Match, If-Match), so that two drivers could not be kept"
        raise BucketTrouble(bucket.address, f"{what} apart; give a bucket that has them")
    if there is None or there[0] != b"third" or not listed:
        raise BucketTrouble(bucket.address, "the storage does not give back what was just written; give another bucket")


def _passes(error: Exception) -> bool:
    """Whether it may work later: no answer, cut answers, 5xx and the like."""
    from obstore.exceptions import GenericError

    if isinstance(error, GenericError):
        status = _STATUS.search(str(error))
        return status is None or int(status[1]) >= 500 or int(status[1]) in _PASSING
    return isinstance(error, ConnectionError | TimeoutError)


def _reason(error: Exception) -> str:
    """A few words of an error whose text is long, without addresses of requests."""
    text = str(error)
    if code := _CODE.search(text):
        return code[1]
    if status := _STATUS.search(text):
        return f"HTTP {status[1]}"
    for words in ("credential", "timed out", "dns error", "error sending request", "connection"):
        if words in text.lower():
            return {"credential": "no credentials", "error sending request": "no connection"}.get(words, words)
    return type(error).__name__ if "obstore" in type(error).__module__ else first_words(text)


def first_words(text: str) -> str:
    """The beginning of a text's first line."""
    return (text.strip().splitlines() or [""])[0][:80]


def _stored(meta: Any) -> Stored:
    tag = meta["e_tag"] or f"{meta['size']}-{meta['last_modified'].timestamp()}"
    return Stored(tag, meta["size"], meta["last_modified"])


def _tag(result: Any) -> str:
    return str(result["e_tag"])
