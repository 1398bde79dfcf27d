"""Jinja templates of a row's columns."""

from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateRuntimeError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gallop_ray.spec.problems import first_line
from gallop_ray.tasks.sources.table import Row


def _written(value: Any) -> Any:
    """What stands in a text; a column that is null has nothing to write."""
    if value is None:
        raise TemplateRuntimeError("a column is null; write `{{ column or '' }}`, or take the row out")
    return value


_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_written)


@lru_cache(maxsize=64)
def _compiled(template: str) -> Template:
    return _ENVIRONMENT.from_string(template)


def rendered(template: str, row: Row, place: str, field: str) -> str:
    """The template with the row's columns in it. Raises ValueError for a column that is not there."""
    try:
        text = _compiled(template).render(**{str(key): value for key, value in row.items()})
    except TemplateError as error:
        raise ValueError(f"{place}: {field} {template!r}: {first_line(error)}; there are {', '.join(row)}") from error
    except Exception as error:  # whatever the template's own expressions raise
        said = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{place}: {field} {template!r} cannot be filled in: {said}") from error
    if not text.strip():
        raise ValueError(f"{place}: {field} {template!r} gives an empty text")
    return text
