"""YAML as sweep files use it: plain values, numbers that mean what they look like, and limits on nesting."""

import re
from typing import Any

import yaml

from gallop_ray.spec.problems import Problem, SweepFileError

TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}
DEEPEST = 40
"""Levels of nesting; every section and list within another is one."""

_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # what the marks of a Loader count as the end of a line
_FIRST = list("-+.0123456789")
_INTEGER = re.compile(r"^[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$")
_FLOAT = re.compile(
    r"^[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf|\.Inf|\.INF)$"
    r"|^\.(?:nan|NaN|NAN)$"
)
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}


class Loader(yaml.SafeLoader):
    """YAML of plain values only, in which 1e-4 is a number, and 2026-01-31, 1:30 and 010 are text.

    YAML 1.1 reads 1:30 as 90 and 010 as 8, which is not what users mean.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node, unless it is nested too deeply: the composer recurses for every level."""
        if self._depth == DEEPEST:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {DEEPEST} levels", mark)
        self._depth += 1
        try:
            node: yaml.Node | None = super().compose_node(parent, index)
            return node
        finally:
            self._depth -= 1


class Dumper(yaml.SafeDumper):
    """Writes what Loader reads back."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in TAGS - _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _each in (Loader, Dumper):
    _each.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, _FIRST)
Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, _FIRST)


def compose(text: str, file: str, *, with_lines: bool = True) -> yaml.Node | None:
    """The nodes of a text, None where it is empty. Raises SweepFileError, with the line, for invalid YAML."""

    def refused(line: int | None, reason: object) -> SweepFileError:
        return SweepFileError([Problem(file, line if with_lines else None, "", f"is not valid YAML: {reason}")])

    try:
        loader = Loader(text)
    except yaml.reader.ReaderError as error:
        line = 1 + len(_BREAK.findall(text[: error.position]))
        raise refused(line, f"the character #x{ord(text[error.position]):04x} is not allowed") from None
    try:
        node: yaml.Node | None = loader.get_single_node()
        return node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise refused(mark.line + 1 if mark else 1, error.problem or error.context) from None
    except (ValueError, OverflowError):  # PyYAML takes any number for a character's
        mark = loader.get_mark()
        raise refused(mark.line + 1, "an escape such as \\U00110000 names no character") from None
