"""What a sweep was started with: identity.json, with hashes of the base model and the data behind names and paths."""

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
"""The part that is compared field by field: what the model computes with besides its weights."""
_NO_HASHES = (_BEGUN, "version")


class _Identity(StoredRecord):
    """The fields that readers use."""

    examples: dict[str, dict[str, str]] = Field(default={}, alias="examples of")
    base: str | None = Field(default=None, alias="base model")


def begun(folder: SweepFolder) -> datetime:
    """When the sweep was started: set by the first call, for all later starts and all slots."""
    with locked(folder.path / _LOCK):
        stored = read_json(folder.path / _FILE)
        if stored is None:
            stored = {_BEGUN: datetime.now().isoformat(timespec="seconds")}
            write_record(folder.path / _FILE, stored)
    return datetime.fromisoformat(str(stored[_BEGUN]))


def settle(folder: SweepFolder, found: Mapping[str, Any]) -> None:
    """Store the hashes that a sweep is started with, or compare them with the stored ones.

    found: hashes, nested by what they are of. Raises ValueError naming what has changed. A sweep of an older version,
    which has none, stores them now.
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
    """The stored (task, split, sha256 of the examples); none before the data was loaded. Raises Damaged."""
    found = _Identity.read(folder.path / _FILE) or _Identity()
    return [(task, split, digest) for task, splits in found.examples.items() for split, digest in splits.items()]


def base_model(folder: SweepFolder) -> str | None:
    """The stored hash of the base model; None before it was loaded. Raises Damaged."""
    return (_Identity.read(folder.path / _FILE) or _Identity()).base


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
