"""Records as frozen typed models: one description of each, which validates it when it is read.

Every record has the version of the records that it was written with, `major.minor`; without one it is of the first. A
newer minor version may have more: fields, events, statuses and methods, which are left out and reported. A value of
another type than this version knows is damage. A record of a newer major version is left out as a whole.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.disk.regular import read_regular
from gallop_ray.records.files import json_text, write_json

VERSION = "1.2"
"""The version of the records that are written now: `major.minor`."""
FIRST = "1.0"
"""The version of records without one."""

_VERSION = r"\d{1,6}\.\d{1,6}"

Number = float
"""A finite number, integers included, booleans not."""


class OfNewerVersion(Damaged):
    """A record of a newer version that this one cannot use."""


class StoredRecord(BaseModel):
    """A record as stored on disk. Fields that are not declared are kept in `model_extra`."""

    # extra: a newer minor version may have more. strict: a number in quotes is damage, not a number.
    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    version: Annotated[str, Field(pattern=f"^{_VERSION}$")] = FIRST

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The record in a file; None when there is no file. Raises Damaged, or OfNewerVersion for a newer version."""
        try:
            data = read_regular(path)
        except FileNotFoundError:
            return None
        return cls.parse(data, path)

    @classmethod
    def parse(cls, data: bytes, path: Path) -> Self:
        """The record in the contents of a file. Raises as `read`."""
        try:
            found = cls.model_validate_json(data)
        except ValidationError as error:
            raise _unusable(data, path, wrong(error)) from None
        refuse_newer(found.version, path)
        return found

    def as_json(self) -> dict[str, Any]:
        """The fields that were set, as in the file."""
        return self.model_dump(exclude_unset=True)


def write_record(path: Path, value: Mapping[str, Any], durable: bool = True) -> None:
    """Replace a record atomically, as `write_json`, with its version first."""
    write_json(path, _versioned(value), durable)


def versioned_text(value: Mapping[str, Any]) -> str:
    """What `write_record` writes."""
    return json_text(_versioned(value))


def _versioned(value: Mapping[str, Any]) -> dict[str, Any]:
    return {"version": VERSION} | dict(value) | {"version": VERSION}


def wrong(error: ValidationError) -> str:
    """What is wrong with a record, as a phrase that follows its path."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"][:1]))
    if first["type"] == "json_invalid":
        return f"is not valid JSON ({first['ctx']['error']})"
    if not where:
        return str(first["ctx"]["error"]) if first["type"] == "value_error" else "holds no JSON object"
    return f"has no {where}" if first["type"] == "missing" else f"has a wrong {where}: {first['input']!r:.60}"


def note_unread(error: Damaged, follows: str) -> None:
    """Report once what cannot be read, and the consequence; for a newer version, that it is left out."""
    note_damage(error.path, error.reason, "it is left out" if isinstance(error, OfNewerVersion) else follows)


def refuse_newer(version: object, path: Path) -> None:
    """Raises OfNewerVersion for a newer major version, and Damaged for an invalid one."""
    if version == VERSION:
        return
    if not isinstance(version, str) or not re.fullmatch(_VERSION, version):
        raise Damaged(path, f"has a wrong version: {version!r:.60}")
    if _parts(version)[0] > _parts(VERSION)[0]:
        raise _of_newer(path, version, "")


def is_newer(version: str) -> bool:
    """Whether a version is newer than VERSION."""
    return _parts(version) > _parts(VERSION)


def _unusable(data: bytes, path: Path, reason: str) -> Damaged:
    """The error for an invalid record: OfNewerVersion if it is newer and may be valid there, else Damaged."""
    try:
        version = from_json(data).get("version", FIRST)
        newer = is_newer(version)
    except (ValueError, AttributeError, TypeError):
        return Damaged(path, reason)
    return _of_newer(path, version, f" and {reason}") if newer else Damaged(path, reason)


def _of_newer(path: Path, version: str, reason: str) -> OfNewerVersion:
    return OfNewerVersion(path, f"is of version {version} of the records, newer than {VERSION},{reason}".rstrip(","))


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
