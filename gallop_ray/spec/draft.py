"""A sweep without its mistakes, so that the rest can be checked further and everything is reported at once."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from gallop_ray.spec.document import Document
from gallop_ray.spec.problems import Path, Problem, by_path, dotted, explain
from gallop_ray.spec.schema import UNCHECKED, Sweep

# Stand-ins for fields without a default. Any valid value will do: nothing more is reported about a bad path.
_FILLERS: dict[Path, Any] = {
    ("name",): "unnamed",
    ("model",): {"name": "unnamed"},
    ("model", "name"): "unnamed",
    ("data",): {"train": "unnamed"},
    ("data", "train"): "unnamed",
    ("methods",): [{"type": "full"}],
}


@dataclass(frozen=True)
class Draft:
    """A valid sweep in which every path in `bad` holds a default or a stand-in."""

    sweep: Sweep
    bad: frozenset[Path]

    def good(self, path: Path) -> bool:
        """Whether everything at, above and below a path is the user's own."""
        return not _overlaps(path, self.bad)


def make_draft(document: Document) -> tuple[Draft, list[Problem]]:
    """Validate a document field by field. Returns a draft, and a problem for each invalid field."""
    data = deepcopy(document.data)
    bad: set[Path] = set()
    problems: list[Problem] = []
    said = {problem.field for problem in document.problems}
    while True:
        try:
            return Draft(Sweep.model_validate(data, context=UNCHECKED), frozenset(bad)), problems
        except ValidationError as error:
            found = by_path(error.errors(include_url=False), data)
        for path, errors in found.items():
            if dotted(path) not in said and not _overlaps(path, bad):
                about_key = errors[0]["type"] == "extra_forbidden"
                problems.append(document.problem(path, explain(errors, Sweep), about_key=about_key))
        bad |= {_repair(data, path) for path in reversed(found)}


def _overlaps(path: Path, bad: set[Path] | frozenset[Path]) -> bool:
    return any(path[: len(each)] == each[: len(path)] for each in bad)


def _repair(data: dict[str, Any], path: Path) -> Path:
    """Replace an invalid value by its default or a stand-in. Returns the path that is no longer the user's."""
    if path[0] == "methods" and path[2:] in ((), ("type",)) and len(path) > 1:
        data["methods"][path[1]] = {"type": "full", "name": f"unreadable{path[1]}"}
        return path[:2]
    parent: Any = data
    for depth, part in enumerate(path[:-1]):
        if isinstance(parent, dict) and part not in parent:  # a section that another mistake in it has taken out
            return path[: depth + 1]
        parent = parent[part]
    if path in _FILLERS:
        parent[path[-1]] = deepcopy(_FILLERS[path])
    elif isinstance(parent, dict) and path[-1] not in parent:  # a required key of an optional section: drop the section
        return _repair(data, path[:-1])
    else:
        del parent[path[-1]]
    return path
