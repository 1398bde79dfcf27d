"""Records that survive a kill at any moment: JSON replaced atomically, JSON lines appended one by one."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.disk.regular import read_regular
from gallop_ray.disk.whole import append, drafted

Record = dict[str, Any]


def _finite(value: Any) -> Any:
    """NaN and infinity as null: they are not JSON, and readers other than Python refuse them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _write_whole(path: Path, parts: Iterable[str], durable: bool = True) -> None:
    with drafted(path, durable) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines(parts)


def write_json(path: Path, value: Mapping[str, Any], durable: bool = True) -> None:
    """Replace the file atomically: a reader, or the next start after a kill, sees the old content or the new.

    durable: as in `drafted`.
    """
    _write_whole(path, (json_text(value),), durable)


def json_text(value: Mapping[str, Any]) -> str:
    """What `write_json` writes."""
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> Record | None:
    """The object in the file; None when there is no file. Raises Damaged, a ValueError, if it is not a JSON object."""
    try:
        data = read_regular(path)
    except FileNotFoundError:
        return None
    try:
        value = _parsed(data)
    except ValueError as error:
        raise Damaged(path, f"is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise Damaged(path, "holds no JSON object")
    return value


def _parsed(text: bytes) -> Any:
    """Raises ValueError for anything but JSON of readable depth."""
    try:
        return json.loads(text.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(_finite(value), allow_nan=False) + "\n"


def write_lines(path: Path, values: Iterable[Mapping[str, Any]], durable: bool = True) -> None:
    """Replace the file atomically by one JSON object per line; durable as in `drafted`."""
    _write_whole(path, map(_line, values), durable)


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON object atomically, for the file's only writer. Raises OSError as `append`."""
    append(path, _line(value).encode())


class Lines(NamedTuple):
    """The objects in complete lines, the size of these lines in bytes, and what is wrong with the first bad one."""

    records: list[Record]
    size: int
    damage: str | None = None


def parse_lines(data: bytes) -> Lines:
    """All complete lines; an incomplete last one stays unread, and lines that are not JSON objects are left out."""
    complete, records, damage = data.rfind(b"\n") + 1, [], None
    for line in data[:complete].split(b"\n")[:-1]:
        try:
            value = _parsed(line)
            if not isinstance(value, dict):
                raise ValueError("no JSON object")
            records.append(value)
        except ValueError as error:
            damage = damage or str(error)
    return Lines(records, complete, damage)


def complete_lines(path: Path) -> list[bytes]:
    """The complete lines of a file; none without a file, or where something else is in its place, reported once."""
    try:
        data = read_regular(path)
    except FileNotFoundError:
        return []
    except Damaged as error:
        note_damage(path, error.reason, "it counts as empty")
        return []
    return data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
