"""What records must look like where they are read: a wrong type is damage, what an older version lacks is not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from gallop_ray.disk.damage import Damaged
from gallop_ray.tracking.files import Record, read_json

Check = Callable[[Any], bool]


def text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def integer(value: Any) -> bool:
    """A whole number, no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def number(value: Any) -> bool:
    """A finite number that a float holds, no truth value."""
    return (isinstance(value, float) and isfinite(value)) or (integer(value) and abs(value) < 2**1000)


def truth(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def mapping(of: Check | None = None) -> Check:
    """An object, all of its values so."""
    return lambda value: isinstance(value, dict) and (of is None or all(map(of, value.values())))


def listed(of: Check) -> Check:
    """A list, all of its items so."""
    return lambda value: isinstance(value, list) and all(map(of, value))


def optional(of: Check) -> Check:
    """So, or null."""
    return lambda value: value is None or of(value)


def one_of(*values: Any) -> Check:
    """One of these."""
    return lambda value: isinstance(value, str | int) and value in values


@dataclass(frozen=True)
class Shape:
    """The fields of a record that are relied on.

    needed: must be there. known: of this type where they are there, others are not looked at. defaults: of those that
    an older version did not write.
    """

    needed: Mapping[str, Check] = field(default_factory=dict)
    known: Mapping[str, Check] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def wrong(self, record: Mapping[str, Any]) -> str | None:
        """What is wrong with a record; None where nothing is."""
        if missing := [name for name in self.needed if name not in record]:
            return f"has no {missing[0]}"
        for name, check in {**self.needed, **self.known}.items():
            if name in record and not check(record[name]):
                return f"has a wrong {name}: {record[name]!r:.60}"
        return None

    def read(self, path: Path) -> Record | None:
        """A record of this shape, its defaults filled in; None when there is no file. Raises Damaged otherwise."""
        record = read_json(path)
        if record is None:
            return None
        if (wrong := self.wrong(record)) is not None:
            raise Damaged(path, wrong)
        return {**self.defaults, **record}
