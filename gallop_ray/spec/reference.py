"""Generates docs/reference/fields.md, every field of the sweep file, from the JSON Schema."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gallop_ray.spec.json_schema import sweep_schema
from gallop_ray.spec.method import GradientMethodSpec, MaskMethodSpec
from gallop_ray.spec.registry import method_specs

_HEAD = """\
# Fields of a sweep file

Made from the code by `make pages`. In an editor with a YAML language server the same text is at hand: begin the file
with `# yaml-language-server: $schema=PATH/TO/docs/sweep.schema.json`, or write the schema beside it with
`gallop-ray schema > sweep.schema.json`. `gallop-ray plan SWEEP` prints a sweep with every default filled in.
"""
_COLUMNS = "| field | type | default | |\n|---|---|---|---|"
_LIMITS = {"exclusiveMinimum": "> {}", "minimum": ">= {}", "exclusiveMaximum": "< {}", "maximum": "<= {}"}
_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
    "null": "null",
}
_NAMING = ("type", "name")
_RANGES = ("LogRange", "LinearRange", "IntegerRange", "ChoiceRange")
Schema = Mapping[str, Any]


def fields_markdown() -> str:
    """The whole page."""
    schema = sweep_schema()
    simple = [(name, each) for name, each in schema["properties"].items() if not _definitions(each)]
    parts = [_HEAD, "## At the top\n", _table(dict(simple), schema)]
    for name, each in schema["properties"].items():
        parts += _methods(schema) if name == "methods" else _section(name, each, schema)
        parts += _ranges(schema) if name == "search" else ()
    return "\n".join(parts)


def _section(path: str, field: Schema, schema: Schema) -> Iterator[str]:
    """A section and its subsections; empty for a field that is not a section."""
    for definition in _definitions(field):
        section = schema["$defs"][definition]
        if section.get("type") != "object":
            continue
        yield f"## {path}\n"
        yield section["description"] + "\n"
        yield _table(section["properties"], schema)
        for name, each in section["properties"].items():
            yield from _section(f"{path}.{name}", each, schema)
            if isinstance(each.get("additionalProperties"), dict) and _definitions(each["additionalProperties"]):
                yield from _section(f"{path}.{name}.NAME", each["additionalProperties"], schema)


def _methods(schema: Schema) -> Iterator[str]:
    yield "## methods\n"
    yield "A list; each entry has a `type`, the options of that type, and where a type is there twice a `name`.\n"
    shared: dict[str, Any] = {}
    for model, title in ((MaskMethodSpec, "Of every mask method"), (GradientMethodSpec, "Of those that use gradients")):
        found = _properties(schema, "GallopSpec")
        fields = {name: found[name] for name in model.model_fields if name not in (*_NAMING, *shared)}
        yield f"{title}:\n"
        yield _table(fields, schema)
        shared |= fields
    for method in method_specs():
        properties = _properties(schema, method.__name__)
        own = {name: each for name, each in properties.items() if each != shared.get(name) and name not in _NAMING}
        yield f"### {properties['type']['const']}\n"
        yield schema["$defs"][method.__name__]["description"] + _inherited(properties, shared) + "\n"
        if own:
            yield _table(own, schema)


def _properties(schema: Schema, definition: str) -> dict[str, Any]:
    """The fields of one definition."""
    found: dict[str, Any] = schema["$defs"][definition]["properties"]
    return found


def _inherited(properties: Schema, shared: Schema) -> str:
    names = [f"`{name}`" for name in shared if properties.get(name) == shared[name]]
    return f" Has {', '.join(names)}, too." if names else ""


def _ranges(schema: Schema) -> Iterator[str]:
    yield "### Ranges of search.space\n"
    yield "| | |\n|---|---|"
    for name in _RANGES:
        section = schema["$defs"][name]
        (field,) = section["properties"]
        ends = "[a, b, ...]" if field == "choice" else "[low, high]"
        yield f"| `{{{field}: {ends}}}` | {section['description']} |"
    yield ""


def _table(fields: Schema, schema: Schema) -> str:
    required = {name for name, each in fields.items() if "default" not in each}
    rows = [
        f"| `{name}` | {_type(each, schema)} | {'required' if name in required else _default(each, schema)} "
        f"| {_escaped(_description(each, schema))} |"
        for name, each in fields.items()
        if name != "methods"
    ]
    return "\n".join([_COLUMNS, *rows, ""])


def _description(field: Schema, schema: Schema) -> str:
    if "description" in field or "$ref" not in field:
        return str(field.get("description", ""))
    return str(_target(field, schema)["description"]).partition("\n")[0]


def _default(field: Schema, schema: Schema) -> str:
    default = field["default"]
    if "$ref" in field or default in ({}, []):
        return ""
    if isinstance(default, float):
        return f"`{default:g}`"
    return f"`{json.dumps(default, ensure_ascii=False)}`" if not isinstance(default, str) else f"`{_text(default)}`"


def _text(value: str) -> str:
    return value if value.isprintable() else json.dumps(value)


def _type(field: Schema, schema: Schema) -> str:
    if "$ref" in field:
        return _type(_target(field, schema), schema)
    for several in ("anyOf", "oneOf"):
        if several in field:
            return _joined([_type(each, schema) for each in field[several]])
    if "enum" in field or "const" in field:
        return _joined([f"`{value}`" for value in field.get("enum", [field.get("const")])])
    if field.get("type") == "array":
        return f"list of {_type(field['items'], schema)}"
    if "properties" in field and "additionalProperties" in field:
        return "mapping"
    limits = [form.format(_number(field[key])) for key, form in _LIMITS.items() if key in field]
    return " ".join([_WORDS[field["type"]], ", ".join(limits)]).strip()


def _joined(words: list[str]) -> str:
    words = list(dict.fromkeys(words))
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _number(value: float) -> str:
    return f"{value:g}"


def _definitions(field: Schema) -> list[str]:
    """The definitions of a field that is, or may be, a section."""
    references = [each.get("$ref", "") for each in (field, *field.get("anyOf", ()), *field.get("oneOf", ()))]
    return [each.rpartition("/")[2] for each in references if each]


def _target(field: Schema, schema: Schema) -> Schema:
    found: Schema = schema["$defs"][field["$ref"].rpartition("/")[2]]
    return found


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
