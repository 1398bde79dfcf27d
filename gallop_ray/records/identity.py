"""What a sweep was begun with, identity.json: hashes of base model and data, which names and paths only stand for."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from gallop_ray.disk.locks import locked
from gallop_ray.records.files import Record, read_json
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.typed import StoredRecord, write_record

_FILE, _LOCK, _BEGUN = "identity.json", ".identity.lock", "begun"
SETTINGS = "model settings"
"""The part that is compared field by field: what the model computes with beside its weights."""
_NO_HASHES = (_BEGUN, "version")


class _Identity(StoredRecord):
    """What readers look for in it."""

    examples: dict[str, dict[str, str]] = Field(default={}, alias="examples of")


def begun(folder: SweepFolder) -> datetime:
    """When the sweep was begun: the first call decides, for all later starts and all slots."""
    with locked(folder.path / _LOCK):
        stored = read_json(folder.path / _FILE)
        if stored is None:
            stored = {_BEGUN: datetime.now().isoformat(timespec="seconds")}
            write_record(folder.path / _FILE, stored)
    return datetime.fromisoformat(str(stored[_BEGUN]))


def settle(folder: SweepFolder, found: Mapping[str, Any]) -> None:
    """Keep what a sweep is begun with, or hold it against what is kept. A sweep of an older version begins here.

    found: hashes, nested by what they are of. Raises ValueError that names what has changed.
    """
    with locked(folder.path / _LOCK):
        stored = read_json(folder.path / _FILE) or {}
        kept = {key: value for key, value in stored.items() if key not in _NO_HASHES}
        if not kept:
            write_record(folder.path / _FILE, {**stored, **found})
            return
        changed = list(_changes("", kept, found))
        if not changed and not found.keys() <= kept.keys():  # what its version did not keep
            write_record(folder.path / _FILE, {**found, **stored})
    if changed:
        raise ValueError(
            f"{folder.path} was begun with other content under the same names: {', '.join(changed)}; put back what it "
            "was begun with, or give this sweep another name"
        )


def split_hashes(folder: SweepFolder) -> list[tuple[str, str, str]]:
    """Task, split and sha256 of its examples, as they are kept; none before the data was loaded. May raise Damaged."""
    found = _Identity.read(folder.path / _FILE) or _Identity()
    return [(task, split, digest) for task, splits in found.examples.items() for split, digest in splits.items()]


def _changes(path: str, kept: Record, found: Mapping[str, Any]) -> Iterator[str]:
    for key, before in kept.items():
        now, name = found.get(key), f"{path} {key}".strip()
        if path == SETTINGS and now is None:
            continue  # another version of transformers may know other fields
        if isinstance(before, dict) and isinstance(now, Mapping):
            yield from _changes(name, before, now)
        elif now != before:
            yield f"{name} (was {_short(before)}, is {_short(now)})"


def _short(value: object) -> str:
    return "nothing" if value is None or isinstance(value, Mapping) else str(value)[:12]
