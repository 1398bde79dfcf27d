"""Models and data that lie in a bucket: copied once to each machine that reads them."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

from gallop_ray.disk.bucket.address import address_parts, checked_address, copies_root, is_bucket
from gallop_ray.disk.bucket.store import Bucket, Stored
from gallop_ray.disk.locks import locked

_PATIENCE = 120.0  # seconds that a bucket may be away for; a sweep's own bucket is waited for
_FOLDER, _PARTIAL = "input", ".partial-"


def brought(place: str, without: tuple[str, ...] = ()) -> str:
    """Where a file or folder given by address can be read on this machine; any other text as it is.

    The first process on a machine copies all of it, or all but the files whose names match the patterns `without`. If
    it changes in the bucket, processes that start later copy the new version into a folder of its own. Raises
    ValueError where nothing is there, OSError where the bucket or the disk refuses.
    """
    return str(_brought(checked_address(place), without)) if is_bucket(place) else place


def refuse_missing(address: str) -> None:
    """Raises as `brought` for a place in a bucket where nothing can be read; nothing is copied."""
    _listed(address)


def bytes_there(address: str, patterns: tuple[str, ...]) -> int:
    """How large those are that match the patterns, of the files at a place in a bucket; raises as `brought`."""
    _, _, objects = _seen(checked_address(address))
    return sum(stored.size for key, stored in objects.items() if _matches(key, patterns))


@lru_cache(maxsize=256)
def _brought(address: str, without: tuple[str, ...]) -> Path:
    bucket, name, objects = _seen(address)
    root = copies_root(address) / _FOLDER
    whole = root / _version(objects)
    if whole.exists():
        return whole / name
    few = {key: stored for key, stored in objects.items() if not _matches(key, without)}
    folder = root / _version(few)
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / ".lock"):
        for left in root.glob(f"{_PARTIAL}*"):  # by processes that were killed
            shutil.rmtree(left, ignore_errors=True)
        if not folder.exists():
            try:
                _copy(bucket, few, folder)
            except ValueError:  # of what has changed: it may be tried again
                _seen.cache_clear()
                raise
    return folder / name


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(key, each) for each in patterns)


@lru_cache(maxsize=256)
def _seen(address: str) -> tuple[Bucket, str, dict[str, Stored]]:
    """As `_listed`, once a process: all that it reads of a place is of one version."""
    return _listed(address)


def _version(objects: Mapping[str, Stored]) -> str:
    """The name of a folder with these objects."""
    versions = json.dumps(sorted((key, stored.tag, stored.size) for key, stored in objects.items()))
    return hashlib.sha256(versions.encode()).hexdigest()[:16]


def _listed(address: str) -> tuple[Bucket, str, dict[str, Stored]]:
    """What an address is below, its name there, and one file or all below a folder by their keys."""
    above, name = address_parts(address)
    bucket = Bucket(above)
    bucket.patience = _PATIENCE
    if (file := bucket.head(name)) is not None and file.size:
        return bucket, name, {name: file}
    if not (objects := bucket.list(name)):
        raise ValueError(f"{address} is not there: the bucket has no file and no folder of that name")
    return bucket, name, objects


def _copy(bucket: Bucket, objects: Mapping[str, Stored], folder: Path) -> None:
    """Whole or not at all. Raises ValueError for what is written to while it is copied."""
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.parent))
    try:
        for key, stored in objects.items():
            (file := partial / key).parent.mkdir(parents=True, exist_ok=True)
            found = bucket.fetch(key, file)
            if found is None or found.tag != stored.tag:
                raise ValueError(f"{bucket.address}/{key} has changed while it was copied; try again")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
