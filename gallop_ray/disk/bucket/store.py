"""Requests to a bucket: whole objects, create-if-absent and compare-and-swap, retried while the bucket is away."""

import logging
import random
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from gallop_ray.disk.bucket.address import is_installed
from gallop_ray.disk.bucket.errors import BucketTrouble, away, passes, reason, refused
from gallop_ray.errors import Halted

_LOG = logging.getLogger(__name__)
_SILENT_SECONDS = 5.0
_LONGEST_PAUSE = 30.0
SMALL_SECONDS = 10.0
"""The longest that one try of a request for something small takes."""
_LARGE_SECONDS = 120.0
_LOOK_SECONDS = 2.0
_SMALL = 1 << 20
_PIECE = 16 << 20  # each is fetched by a request of its own, which has _LARGE_SECONDS
_PART, _PARTS = 8 << 20, 9000  # S3 takes 10,000

T = TypeVar("T")


class Stored(NamedTuple):
    """An object: its version, its size in bytes, and when it was written by the bucket's clock."""

    tag: str
    size: int
    modified: datetime


class Bucket:
    """What lies below an address. Keys are relative to it.

    Every request waits for a bucket that is away, with one warning, unless `patience` (seconds) limits that; then
    BucketAway. A try that is under way is not broken off: SMALL_SECONDS more. BucketTrouble where it refuses.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.patience: float | None = None
        """Of requests that give none themselves."""
        self.guard: Callable[[], None] | None = None
        """Asked before every try to write, and raises if this process must not; BucketAway: to be tried later."""
        self._stores: dict[bool, Any] = {}
        self._said = False  # that it is away
        self._saying = threading.Lock()

    def _store(self, large: bool = False) -> Any:
        """For something small obstore retries nothing, because the guard must be asked before."""
        if large not in self._stores:
            if not is_installed():
                raise BucketTrouble(self.address, "buckets need obstore: pip install 'gallop_ray[cloud]'")
            from obstore.store import from_url

            pause = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2)}
            retries: Any = {"max_retries": 3 if large else 0, "retry_timeout": timedelta(seconds=20), "backoff": pause}
            seconds = _LARGE_SECONDS if large else SMALL_SECONDS
            options: Any = {"allow_http": True, "connect_timeout": "5s", "timeout": f"{seconds:.0f}s"}
            self._stores[large] = from_url(self.address, client_options=options, retry_config=retries)
        return self._stores[large]

    def get(self, key: str, patience: float | None = None) -> tuple[bytes, Stored] | None:
        """A whole small object; None where there is none."""
        import obstore

        def read() -> tuple[bytes, Stored]:
            found = obstore.get(self._store(), key)
            return _bytes(found, found.meta["size"]), _stored(found.meta)

        return self._unless_missing(read, patience)

    def fetch(self, key: str, file: Path, patience: float | None = None) -> Stored | None:
        """Write an object to a file, whole; None where there is none. Patience is for each of its pieces."""
        while (begun := self._unless_missing(partial(self._begin, key), patience)) is not None:
            stored, data = begun
            with file.open("wb") as out:
                if data is not None:
                    out.write(data)
                    return stored
                starts = range(0, stored.size, _PIECE)
                pieces = (self._unless_missing(partial(self._piece, key, stored, at), patience) for at in starts)
                if all(piece is not None and out.write(piece) for piece in pieces):
                    return stored
        return None

    def _begin(self, key: str) -> tuple[Stored, bytes | None]:
        """An object, with its contents if they are no more than a piece."""
        import obstore

        found = obstore.get(self._store(large=True), key)
        stored = _stored(found.meta)
        return stored, _bytes(found, stored.size) if stored.size <= _PIECE else None

    def _piece(self, key: str, stored: Stored, start: int) -> bytes | None:
        """None where there is another version by now."""
        import obstore
        from obstore.exceptions import PreconditionError

        end = min(start + _PIECE, stored.size)
        options: Any = {"range": (start, end), "if_match": stored.tag}
        try:
            return _bytes(obstore.get(self._store(large=True), key, options=options), end - start)
        except PreconditionError:
            return None

    def head(self, key: str, patience: float | None = None) -> Stored | None:
        """An object without its contents; None where there is none."""
        import obstore

        return self._unless_missing(lambda: _stored(obstore.head(self._store(), key)), patience)

    def list(self, prefix: str, patience: float | None = None) -> dict[str, Stored]:
        """All objects whose keys begin with a prefix, which ends at a slash.

        Without the empty objects that other tools leave for folders, whose keys end at a slash.
        """
        import obstore

        def read() -> dict[str, Stored]:
            pages = obstore.list(self._store(), prefix=prefix.strip("/") or None)
            found = {each["path"]: _stored(each) for page in pages for each in page}
            empty = {path for path, stored in found.items() if not stored.size}
            folders = {str(above) for path in found for above in PurePosixPath(path).parents} if empty else set()
            for path in empty & {prefix.strip("/"), *folders}:
                del found[path]
            return found

        return self._patiently(read, patience)

    def folders(self, patience: float | None = None) -> set[str]:
        """The first parts of all keys that have more than one."""
        import obstore

        def read() -> set[str]:
            return {each.strip("/") for each in obstore.list_with_delimiter(self._store())["common_prefixes"]}

        return self._patiently(read, patience)

    def ask(self, patience: float | None = None) -> None:
        """Ask the guard, once for several writes that begin as soon as this returns, which say so by `asked`."""
        self._patiently(lambda: None, patience, writes=True)

    def put(self, key: str, source: bytes | Path, patience: float | None = None, asked: bool = False) -> str:
        """Replace an object as a whole; its new version."""
        import obstore

        def write() -> str:
            size = source.stat().st_size if isinstance(source, Path) else len(source)
            chunk = max(_PART, size // _PARTS)
            return _tag(obstore.put(self._store(size > _SMALL), key, source, chunk_size=chunk))

        return self._patiently(write, patience, True, asked)

    def create(self, key: str, data: bytes, patience: float | None = None) -> str | None:
        """Create an object; None where there is one already. `data` must be like no other writer's."""
        return self._if(key, data, "create", patience)

    def swap(self, key: str, data: bytes, tag: str, patience: float | None = None) -> str | None:
        """Replace the version `tag` of an object; None where there is another by now. `data` as for `create`."""
        return self._if(key, data, {"e_tag": tag}, patience)

    def delete(self, key: str, patience: float | None = None, asked: bool = False) -> None:
        """Remove an object, if there is one."""
        import obstore

        self._unless_missing(lambda: obstore.delete(self._store(), key), patience, True, asked)

    def _if(self, key: str, data: bytes, mode: Any, patience: float | None) -> str | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        def write() -> str | None:
            try:
                return _tag(obstore.put(self._store(), key, data, mode=mode, use_multipart=False))
            except (AlreadyExistsError, PreconditionError):
                # A retried request may have met what its own first try had written, whose answer was lost.
                there = self.get(key, patience=_LOOK_SECONDS)
                if there is not None and there[0] == data:
                    return there[1].tag
                wanted = None if mode == "create" else mode["e_tag"]
                if (None if there is None else there[1].tag) == wanted:
                    raise ConnectionError("two writers met") from None  # 409: neither has won
                return None

        return self._patiently(write, patience, writes=True)

    def _unless_missing(
        self, work: Callable[[], T], patience: float | None, writes: bool = False, asked: bool = False
    ) -> T | None:
        try:
            return self._patiently(work, patience, writes, asked)
        except FileNotFoundError:
            return None

    def _patiently(self, work: Callable[[], T], patience: float | None, writes: bool = False, asked: bool = False) -> T:
        pause, begun = 0.25, time.monotonic()
        patience = self.patience if patience is None else patience
        while True:
            try:
                if writes and self.guard is not None and not asked:
                    self.guard()
                asked = False  # that was for the first try
                found = work()
                if self._says(away=False):
                    _LOG.warning("%s answers again; the sweep continues", self.address)
                return found
            except Exception as error:
                if not passes(error):
                    raise self._final(error) from None
                waited = time.monotonic() - begun
                if patience is not None and waited + pause > patience:
                    raise away(self.address, error) from None
                if waited > _SILENT_SECONDS and self._says(away=True):
                    _LOG.warning(
                        "%s does not answer (%s); the sweep waits for it, nothing that has finished is lost",
                        self.address,
                        reason(error),
                    )
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _says(self, away: bool) -> bool:
        """Whether this is news, to be said by one of the threads that find it out."""
        with self._saying:
            before, self._said = self._said, away
        return before != away

    def _final(self, error: Exception) -> Exception:
        """What to raise for an error that no later try can pass."""
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" in str(error):
            return refused(self.address, error)
        return error if isinstance(error, OSError | Halted) else refused(self.address, error)


def _bytes(found: Any, size: int) -> bytes:
    data = bytes(found.bytes())
    if len(data) != size:
        raise ConnectionError(f"{len(data)} of {size} bytes came")
    return data


def _stored(meta: Any) -> Stored:
    tag = meta["e_tag"] or f"{meta['size']}-{meta['last_modified'].timestamp()}"
    return Stored(tag, meta["size"], meta["last_modified"])


def _tag(result: Any) -> str:
    return str(result["e_tag"])
