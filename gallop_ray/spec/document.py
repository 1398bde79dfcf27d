"""A sweep file as plain data that remembers on which line each key and each value stands."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml

from gallop_ray.spec.problems import Path, Problem, SweepFileError, dotted

_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}


class Loader(yaml.SafeLoader):
    """YAML of plain values only, in which 1e-4 is a number and 2026-01-31 is text."""


class Dumper(yaml.SafeDumper):
    """Writes what Loader reads back."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _each in (Loader, Dumper):
    # YAML 1.1 asks for a dot in every number with an exponent; nobody who writes a learning rate does.
    _exponent = re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
    _each.add_implicit_resolver("tag:yaml.org,2002:float", _exponent, list("-+.0123456789"))


@dataclass(frozen=True)
class Place:
    """Where a key and its value stand; a `--set` has no lines."""

    file: str
    key_line: int | None
    line: int | None


@dataclass
class Document:
    """Plain data (mappings, lists, scalars) with a place for each path in it, and the problems met on the way."""

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
    """Reads a sweep file. Raises SweepFileError where no mapping can be read from it at all."""
    text = _read_text(path)
    document = Document(str(path))
    with _syntax_errors(str(path)):
        node = yaml.compose(text, Loader)
    if node is None:
        raise SweepFileError([Problem(str(path), 1, "", "the file is empty; a sweep needs name, model, data, methods")])
    if not isinstance(node, yaml.MappingNode):
        message = "must be `key: value` lines at the top, such as `name: my_sweep`"
        raise SweepFileError([Problem(str(path), node.start_mark.line + 1, "", message)])
    document.data = _Reader(document).value(node, (), node.start_mark.line + 1)
    return document


def parse_value(text: str, source: str) -> object:
    """The value of a `--set`, which holds YAML. Raises SweepFileError naming `source`."""
    document = Document(source)
    with _syntax_errors(source, with_lines=False):
        node = yaml.compose(text, Loader)
    value = None if node is None else _Reader(document).value(node, (), 1)
    if document.problems:
        raise SweepFileError([Problem(source, None, "", each.message) for each in document.problems])
    return value


def _read_text(path: str | FilePath) -> str:
    try:
        return FilePath(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        reason = "no such file; give the path of a sweep file"
    except UnicodeDecodeError:
        reason = "is not text in UTF-8; save it as UTF-8"
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    raise SweepFileError([Problem(str(path), None, "", reason)])


@contextmanager
def _syntax_errors(file: str, *, with_lines: bool = True) -> Iterator[None]:
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark and with_lines else None
        reason = error.problem or error.context
        raise SweepFileError([Problem(file, line, "", f"is not valid YAML: {reason}")]) from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise SweepFileError([Problem(file, None, "", f"is not valid YAML: {reason}")]) from None


class _Reader:
    """Turns composed nodes into plain data, noting each place and problem in the document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.scalars = Loader("")
        self.open: list[yaml.Node] = []

    def value(self, node: yaml.Node, path: Path, key_line: int) -> Any:
        is_scalar = isinstance(node, yaml.ScalarNode)
        line = node.start_mark.line + 1 if is_scalar else key_line
        self.document.places[path] = Place(self.document.file, key_line, line)
        if node.tag not in _TAGS:
            return self._problem(path, f"the tag {node.tag} is not understood; write a plain value")
        if any(node is each for each in self.open):
            return self._problem(path, "this alias stands inside the anchor that it names; write the value out")
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
                message = f"is given twice, first on line {first}; keep one of them"
                field = dotted((*path, key.value))
                self.document.problems.append(Problem(self.document.file, line, field, message))
            else:
                found[key.value] = self.value(value, (*path, key.value), line)
        return found

    def _other(self, node: yaml.Node, path: Path) -> Any:
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            return [self.value(item, (*path, place), item.start_mark.line + 1) for place, item in items]
        try:
            return self.scalars.construct_object(node)
        except (ValueError, yaml.YAMLError):
            return self._problem(path, f"{node.value} does not fit its tag; leave the tag out")

    def _problem(self, path: Path, message: str) -> None:
        self.document.problems.append(self.document.problem(path, message))
