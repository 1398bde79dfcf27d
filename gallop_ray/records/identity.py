"""What a sweep was started with: identity.json, with hashes of the base model and the data behind names and paths."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from gallop_ray.disk.bucket.tree import tree_of
from gallop_ray.disk.locks import locked
from gallop_ray.records.files import Record, read_json
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.typed import StoredRecord, versioned_text, write_record

_FILE, _LOCK, _BEGUN = "identity.json", ".identity.lock", "begun"
SETTINGS = "model settings"
"""The part that is compared field by field: what the model computes with besides its weights."""
_NO_HASHES = (_BEGUN, "version")


class _Identity(StoredRecord):
    """The fields that readers use."""

    begun: str | None = None
    examples: dict[str, dict[str, str]] = Field(default={}, alias="examples of")
    base: str | None = Field(default=None, alias="base model")


def begun(folder: SweepFolder) -> datetime:
    """When the sweep was started: set by the first call, for all later starts and all slots."""

    def begin(stored: Record | None) -> Record | None:
        return None if stored else {_BEGUN: datetime.now().isoformat(timespec="seconds")}

    return datetime.fromisoformat(str(_exchange(folder, begin)[_BEGUN]))


def since(folder: SweepFolder) -> datetime | None:
    """When the sweep was started, as far as that has been recorded."""
    try:
        found = _Identity.read(folder.path / _FILE)
        return None if found is None or found.begun is None else datetime.fromisoformat(found.begun)
    except ValueError:  # Damaged, too: one bad record must not hide other sweeps
        return None


def settle(folder: SweepFolder, found: Mapping[str, Any]) -> None:
    """Store the hashes that a sweep is started with, or compare them with the stored ones.

    found: hashes, nested by what they are of. Raises ValueError naming what has changed. A sweep of an older version,
    which has none, stores them now.
    """
    changed: list[str] = []

    def compare(stored: Record | None) -> Record | None:
        stored = stored or {}
        kept = {key: value for key, value in stored.items() if key not in _NO_HASHES}
        if not kept:
            return {**stored, **found}
        changed[:] = _changes("", kept, found)
        if not changed and not found.keys() <= kept.keys():  # what its version did not keep
            return {**found, **stored}
        return None

    _exchange(folder, compare)
    if changed:
        raise ValueError(
            f"{folder.path} was begun with other content under the same names: {', '.join(changed)}; put back what it "
            "was begun with, or give this sweep another name"
        )


def _exchange(folder: SweepFolder, change: Callable[[Record | None], Record | None]) -> Record:
    """Replace the stored record by what `change` makes of it, None for nothing; what is stored then.

    Alone: other workers, on other nodes as well, do the same.
    """
    path = folder.path / _FILE
    with locked(folder.path / _LOCK):
        if (tree := tree_of(path)) is None:
            stored = read_json(path)
            if (new := change(stored)) is not None:
                write_record(path, new)
            return new or stored or {}
        while True:
            tree.refresh(path)
            stored = read_json(path)
            if (new := change(stored)) is None:
                return stored or {}
            if tree.exchange(path, versioned_text(new).encode()):
                return new


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
