"""Files that survive a kill at any moment: JSON replaced as a whole, JSON lines appended one by one."""

import errno
import json
import math
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from sys import intern
from typing import Any

Record = dict[str, Any]


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of space; safetensors, being no Python, says so in words only."""
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return True
    return any(os.strerror(number) in str(error) for number in _DISK_FULL)


def _finite(value: Any) -> Any:
    """NaN and infinity as null: they are no JSON, and other readers than Python refuse them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _write_whole(path: Path, parts: Iterable[str], durable: bool = True) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.writelines(parts)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Mapping[str, Any], durable: bool = True) -> None:
    """Replace the file as a whole: a reader, or the next start after a kill, sees the old content or the new.

    durable: so, too, after a power cut. That takes milliseconds; what decides nothing goes without.
    """
    _write_whole(path, (json.dumps(_finite(value), indent=2, allow_nan=False), "\n"), durable)


def read_json(path: Path) -> Record | None:
    """The object in the file; None when there is no file. ValueError, naming the file, when it is no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_interned)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON ({error}): restore or delete it") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object: restore or delete it")
    return value


def _interned(pairs: list[tuple[str, Any]]) -> Record:
    """An object whose names are those of all others: of thousands of results they would take half of the memory."""
    return {intern(name): value for name, value in pairs}


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(_finite(value), allow_nan=False) + "\n"


def write_lines(path: Path, values: Iterable[Mapping[str, Any]], durable: bool = True) -> None:
    """Replace the file as a whole by one JSON object a line; durable as in `write_json`."""
    _write_whole(path, map(_line, values), durable)


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON object; opened anew each time, so that readers on other nodes of a network disk see it."""
    with path.open("ab", buffering=0) as file:
        file.write(_line(value).encode())


def parse_lines(data: bytes) -> tuple[list[Record], int]:
    """The objects of all complete lines, and how many bytes those take; a torn last line stays unread."""
    complete = data.rfind(b"\n") + 1
    return [json.loads(line) for line in data[:complete].splitlines()], complete


def read_lines(path: Path) -> list[Record]:
    """All complete lines of the file; none when there is no file."""
    try:
        return parse_lines(path.read_bytes())[0]
    except FileNotFoundError:
        return []
