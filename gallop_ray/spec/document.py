"""A sweep file as plain data that remembers the line of each key and each value."""

import math
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml

from gallop_ray.spec.plain_yaml import DEEPEST, TAGS, Loader, compose
from gallop_ray.spec.problems import Path, Problem, SweepFileError, dotted, shown

_LARGEST_FILE = 200_000  # bytes; what is larger is no sweep, and would take long to refuse
_MOST_VALUES = 2_000  # with every alias written out
_LARGEST = 2**63 - 1  # what torch, NumPy and databases take


@dataclass(frozen=True)
class Place:
    """The lines of a key and its value; a `--set` has none."""

    file: str
    key_line: int | None
    line: int | None


@dataclass
class Document:
    """Plain data (mappings, lists, scalars) with a place for each path in it, and the problems found while reading."""

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    places: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Path) -> Place:
        """The place of a path, or of the nearest section above it where the path itself is not written."""
        while path not in self.places and path:
            path = path[:-1]
        return self.places.get(path, Place(self.file, 1, 1))

    def problem(self, path: Path, message: str, *, about_key: bool = False) -> Problem:
        """A problem at a path: on the line of its value, or of its key."""
        place = self.place(path)
        return Problem(place.file, place.key_line if about_key else place.line, dotted(path), message)


def read_document(path: str | FilePath) -> Document:
    """Read a sweep file. Raises SweepFileError where it does not contain a mapping at all."""
    document = Document(str(path))
    node = compose(_read_text(path), str(path))
    if node is None:
        raise SweepFileError([Problem(str(path), 1, "", "the file is empty; a sweep needs name, model, data, methods")])
    if not isinstance(node, yaml.MappingNode):
        message = "must be `key: value` lines at the top, such as `name: my_sweep`"
        raise SweepFileError([Problem(str(path), node.start_mark.line + 1, "", message)])
    data = _Reader(document).value(node, (), node.start_mark.line + 1)
    if not isinstance(data, dict):
        raise SweepFileError(document.problems)
    document.data = data
    return document


def parse_value(text: str, source: str) -> object:
    """The value of a `--set`, which is YAML without comments. Raises SweepFileError naming `source`."""
    document = Document(source)
    node = compose(text, source, with_lines=False)
    if text.strip() and (node is None or text[node.end_mark.index :].lstrip().startswith("#")):
        if node is None or (isinstance(node, yaml.ScalarNode) and node.style is None):
            return text.strip()  # a `#` in plain text, such as `out #2`
        raise SweepFileError([Problem(source, None, "", "what follows `#` would be left out; put the text in quotes")])
    value = None if node is None else _Reader(document).value(node, (), 1)
    if document.problems:
        raise SweepFileError([Problem(source, None, "", each.message) for each in document.problems])
    return value


def _read_text(path: str | FilePath) -> str:
    line = None
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) <= _LARGEST_FILE:
            return content.decode("utf-8")
        reason = f"is larger than {_LARGEST_FILE // 1000} kB; give the path of a sweep file"
        line = 1
    except FileNotFoundError:
        reason = "no such file; give the path of a sweep file"
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        reason = f"is not text in UTF-8 (byte 0x{content[error.start]:02x}); save it as UTF-8"
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    raise SweepFileError([Problem(str(path), line, "", reason)])


class _Reader:
    """Turns composed nodes into plain data, recording each place and problem in the document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.scalars = Loader("")
        self.open: list[yaml.Node] = []

    def value(self, node: yaml.Node, path: Path, key_line: int) -> Any:
        is_scalar = isinstance(node, yaml.ScalarNode)
        line = node.start_mark.line + 1 if is_scalar else key_line
        self.document.places[path] = Place(self.document.file, key_line, line)
        if len(self.document.places) > _MOST_VALUES:
            message = f"the file holds more than {_MOST_VALUES} values; an alias counts with all that it stands for"
            raise SweepFileError([self.document.problem(path, message)])
        if node.tag not in TAGS:
            return self._problem(path, f"the tag {node.tag[:60]} is not understood; write a plain value")
        if any(node is each for each in self.open):
            return self._problem(path, "this alias stands inside the anchor that it names; write the value out")
        if len(self.open) == DEEPEST:  # by aliases of aliases
            return self._problem(path, f"is nested deeper than {DEEPEST} levels; write the values out")
        self.open.append(node)
        value = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._other(node, path)
        self.open.pop()
        return value

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._problem((*path, "?"), "a key must be a single word")
            elif key.value in found:
                first = self.document.places[(*path, key.value)].key_line
                self._at_key(line, (*path, key.value), f"is given twice, first on line {first}; keep one of them")
            elif not _is_whole(key.value):
                self._at_key(line, path, f"the key {shown(key.value)} has half of a character; write it out")
            else:
                found[key.value] = self.value(value, (*path, key.value), line)
        return found

    def _other(self, node: yaml.Node, path: Path) -> Any:
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            return [self.value(item, (*path, place), item.start_mark.line + 1) for place, item in items]
        try:
            value = self.scalars.construct_object(node)
        except (ValueError, LookupError, OverflowError, yaml.YAMLError):  # PyYAML's constructors trust their resolvers
            if node.value.isdecimal():  # more digits than Python turns into a number
                return self._problem(path, f"{node.value[:60]}... is not allowed; a whole number is at most {_LARGEST}")
            return self._problem(path, f"{shown(node.value)} does not fit its tag; leave the tag out")
        if isinstance(value, int) and abs(value) > _LARGEST:
            return self._problem(path, f"{node.value[:60]} is not allowed; a whole number is at most {_LARGEST}")
        if isinstance(value, float) and not math.isfinite(value):  # records are JSON, which has none
            return self._problem(path, f"{shown(value)} is not allowed; must be a finite number")
        if isinstance(value, str) and not _is_whole(value):
            return self._problem(path, f"{shown(value)} has half of a character; write the whole one")
        return value

    def _problem(self, path: Path, message: str) -> None:
        self.document.problems.append(self.document.problem(path, message))

    def _at_key(self, line: int, path: Path, message: str) -> None:
        self.document.problems.append(Problem(self.document.file, line, dotted(path), message))


def _is_whole(text: str) -> bool:
    r"""Whether every character can be written to a file; `"\ud83d"`, half of one, cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
