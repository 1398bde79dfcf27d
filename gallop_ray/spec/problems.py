"""What is wrong with a sweep file: one line per mistake, in plain words, all of them at once."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]
# What a check between fields finds: the paths concerned, the one to blame first, and what is wrong.
Finding = tuple[Sequence[Path], str]

_LONGEST = 160  # characters of a field that are shown, and of a word to which another may be close


@dataclass(frozen=True)
class Problem:
    """One mistake: its line, its field, and what to write instead.

    `line` counts from 1; it is None without one, as for a missing file or a `--set`, whose text is then `file`. `field`
    is a dotted path, empty where the mistake does not belong to a field.
    """

    file: str
    line: int | None
    field: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return one_line(": ".join(part for part in (place, _cut(self.field), self.message) if part))


class SweepFileError(ValueError):
    """A sweep file that cannot be run. Its text has one line per problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def one_line(text: str) -> str:
    """The text with line breaks and control characters written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cut(field: str) -> str:
    return field if len(field) <= _LONGEST else f"{field[:_LONGEST]}..."


def dotted(path: Path) -> str:
    """A path as users write it: `methods.0.density`."""
    return ".".join(map(str, path))


def did_you_mean(word: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A hint to append to a message; empty where no known word has a similarity (0 to 1) of at least `cutoff`."""
    text = str(word)
    close = difflib.get_close_matches(text, list(known), n=1, cutoff=cutoff) if len(text) <= _LONGEST else []
    return f"; did you mean `{close[0]}`?" if close else ""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; its class name where that is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_REQUIREMENTS = {
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text; put it in quotes",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} letters",
    "too_short": "must not be empty",
    "tuple_type": "must be a list, such as [a, b]",
    "dict_type": "must be a section of `key: value` lines",
    "model_type": "must be a section of `key: value` lines",
    "literal_error": "must be {expected}",
}


def shown(value: object) -> str:
    """A value as it would be in YAML, cut to 60 characters."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def located(error: ErrorDetails, data: object) -> Path:
    """The path of an error in the data: pydantic's location without the branches of unions."""
    path: list[str | int] = []
    for part in error["loc"]:
        is_key = isinstance(data, dict) and part in data
        if is_key or (isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)):
            data = data[part]  # type: ignore[index]  # just seen to hold it
            path.append(part)
    if error["type"] == "missing":
        path.append(error["loc"][-1])
    elif error["type"].startswith("method_") and isinstance(data, dict):
        path.append("type")
    return tuple(path)


def by_path(errors: Sequence[ErrorDetails], data: object) -> dict[Path, list[ErrorDetails]]:
    """Errors by their path in the data; those of a field's alternatives are grouped."""
    found: dict[Path, list[ErrorDetails]] = {}
    for error in errors:
        # pydantic counts only the valid items, so a list with a wrong item is also called too short
        if error["type"] != "too_short" or not error["input"]:
            found.setdefault(located(error, data), []).append(error)
    return found


def explain(errors: Sequence[ErrorDetails], root: type[BaseModel]) -> str:
    """One sentence about the errors of one field; several errors are those of its alternatives."""
    first = errors[0]
    if first["type"] == "missing":
        return "is missing; it has no default, so give it a value"
    if first["type"] == "extra_forbidden":
        known = first.get("ctx", {}).get("known") or known_keys(first["loc"][:-1], root)
        return _unknown_key(str(first["loc"][-1]), known)
    value = first["input"]
    if first["type"] == "method_without_type":
        wrong = "is missing" if isinstance(value, Mapping) else f"{shown(value)} is not allowed"
        return f"{wrong}; every method needs a type, such as `- type: gallop`"
    if first["type"] == "method_unknown":
        return f"{shown(value['type'])} is not allowed; {first['msg']}"
    allowed = dict.fromkeys(_requirement(each) for each in errors)
    sentence = " or ".join([next(iter(allowed)), *(each.removeprefix("must be ") for each in [*allowed][1:])])
    return f"{shown(value)} is not allowed; {sentence}{did_you_mean(value, _quoted(errors))}"


def _requirement(error: ErrorDetails) -> str:
    context: Mapping[str, Any] = error.get("ctx", {})
    if error["type"] == "value_error":
        return str(context["error"])
    template = _REQUIREMENTS.get(error["type"])
    return template.format(**context) if template else error["msg"]


def _quoted(errors: Sequence[ErrorDetails]) -> list[str]:
    """The words among the allowed values, which pydantic lists as `'a', 'b' or 'c'`."""
    contexts = [error.get("ctx", {}) for error in errors]
    lists = [str(context.get("expected", "")) for context in contexts]
    return [word for text in lists for word in re.findall(r"'([^']*)'", text)]


def _unknown_key(key: str, known: Sequence[str]) -> str:
    return f"unknown key{did_you_mean(key, known) or '; allowed are ' + ', '.join(known)}"


def known_keys(location: Sequence[str | int], root: type[BaseModel]) -> list[str]:
    """The keys allowed at a location, found by walking the models from the root."""
    models = [root]
    for part in location:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields:
            models = [inner for each in fields for inner in _models(each.annotation)]
        else:
            models = [model for model in models if part in _tags(model)] or models
    return sorted({key for model in models for key in model.model_fields})


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _tags(model: type[BaseModel]) -> set[object]:
    return {model.model_fields["type"].default} if "type" in model.model_fields else set()
