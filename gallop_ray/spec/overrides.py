"""`--set path=value`: single fields of a sweep file given on the command line."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from gallop_ray.spec.configuration import space_keys
from gallop_ray.spec.document import Document, Place, parse_value
from gallop_ray.spec.problems import Path, Problem, SweepFileError, did_you_mean, dotted
from gallop_ray.spec.schema import Sweep

_LONGEST = 160  # characters of an override that are shown
_EPOCHS, _STEPS = ("training", "epochs"), ("training", "steps")


def apply_overrides(document: Document, overrides: Sequence[str]) -> None:
    """Write each `path=value` into the document; what cannot be written becomes one of its problems.

    A method is addressed by its place (`methods.0.density`) or by its name (`gallop.density`).
    """
    for text in overrides:
        try:
            _apply(document, text, source(text))
        except SweepFileError as error:
            document.problems.extend(error.problems)


def source(override: str) -> str:
    """The text in place of file and line for an override."""
    return f"--set {override if len(override) <= _LONGEST else override[:_LONGEST] + '...'}"


def without_effect(document: Document, sweep: Sweep) -> Iterator[Problem]:
    """The overrides of fields that every method they reach searches, so that their values are never used."""
    for path, place in document.places.items():
        if place.file == document.file or path[:1] not in (("training",), ("methods",)):
            continue
        here = path[0] == "training"
        methods = sweep.methods if here else [sweep.methods[int(each)] for each in path[1:2]]
        written = path[1:2] if here else path[2:3]
        value = document.data["training"] if here and not written else {}
        for field in written or value:
            searched = [
                space_keys(sweep, method).get(f"{'training' if here else 'method'}.{field}") for method in methods
            ]
            if searched and None not in searched:
                fix = f"; set search.space.{searched[0]}={{choice: [VALUE]}}"
                message = f"{field} is searched (search.space.{searched[0]}), so that its value is never used{fix}"
                yield document.problem(path, message)


def _apply(document: Document, text: str, origin: str) -> None:
    name, equals, value = text.partition("=")
    if not equals or not all(name.split(".")):
        raise _refused(origin, "", "must read path=value, such as data.root=generated")
    path = _path(document.data, name, origin)
    parsed = parse_value(value, origin)
    _write(document.data, path, parsed, origin)
    for below in [each for each in document.places if each[: len(path)] == path]:
        del document.places[below]
    document.places[path] = Place(origin, None, None)
    if path == _EPOCHS:
        _drop_steps(document)


def _drop_steps(document: Document) -> None:
    """Remove the file's steps if the override sets epochs, over which they would silently win."""
    place, section = document.places.get(_STEPS), document.data["training"]
    if place is not None and place.file == document.file and isinstance(section, dict):
        del document.places[_STEPS]
        del section[_STEPS[-1]]


def _path(data: dict[str, Any], name: str, origin: str) -> Path:
    if name.startswith("search.space."):  # the keys of the search space contain dots themselves
        return ("search", "space", name.removeprefix("search.space."))
    head, *rest = (int(part) if re.fullmatch("0|[1-9][0-9]*", part) else part for part in name.split("."))
    methods = _method_names(data)
    if head in methods and head not in Sweep.model_fields:
        if rest[:1] == ["training"]:
            fix = f"for one method alone set search.space.{name}={{choice: [VALUE]}}"
            raise _refused(origin, name, f"is no option of the method; {fix}, and training.FIELD for all")
        return ("methods", methods.index(head), *rest)
    if head not in Sweep.model_fields:
        known = [*Sweep.model_fields, *methods]
        raise _refused(
            origin, str(head), f"is neither a section of a sweep nor a method's name{did_you_mean(head, known)}"
        )
    return (head, *rest)


def _method_names(data: dict[str, Any]) -> list[str]:
    methods = data.get("methods")
    entries = methods if isinstance(methods, list) else []
    return [str(each.get("name") or each.get("type")) if isinstance(each, dict) else "" for each in entries]


def _write(data: dict[str, Any], path: Path, value: object, origin: str) -> None:
    """Set a path in nested mappings and lists, creating missing sections."""
    parent: Any = data
    for depth, part in enumerate(path[:-1]):
        if isinstance(parent, dict) and parent.get(str(part)) is None:
            parent[str(part)] = {}
        parent = _entry(parent, part, path[: depth + 1], origin)
    _entry(parent, path[-1], path, origin)
    parent[path[-1] if isinstance(parent, list) else str(path[-1])] = value


def _entry(parent: Any, part: str | int, path: Path, origin: str) -> Any:
    if isinstance(parent, dict):
        return parent.get(str(part))
    if not isinstance(parent, list):
        raise _refused(origin, dotted(path), f"{dotted(path[:-1])} is a single value and has no fields")
    if not isinstance(part, int) or part >= len(parent):
        raise _refused(origin, dotted(path), f"there is no entry `{part}`; the entries are 0 to {len(parent) - 1}")
    return parent[part]


def _refused(origin: str, field: str, message: str) -> SweepFileError:
    return SweepFileError([Problem(origin, None, field, message)])
