"""The sweep file's JSON Schema, for completion and checks in an editor. Its text comes from the models alone."""

import json
import re
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gallop_ray.spec.configuration import offered, searchable
from gallop_ray.spec.method import MethodSpec
from gallop_ray.spec.plugins import REFERENCE
from gallop_ray.spec.registry import method_specs
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.training import TrainingSpec

_OWN = {
    "type": "object",
    "description": "A method of your own, a class in a module beside the sweep file, with its options.",
    "properties": {"type": {"type": "string", "pattern": f"^{REFERENCE}$"}},
    "required": ["type"],
}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def sweep_schema() -> dict[str, Any]:
    """A JSON Schema of what a user may write.

    It knows fields, types, limits and the paths of search.space; `gallop-ray validate` checks one field against
    another, too.
    """
    models = list(method_specs())
    every: list[type[BaseModel]] = [Sweep, *models]
    _, schema = models_json_schema([(each, "validation") for each in every])
    whole = schema["$defs"].pop("Sweep")
    del schema["$defs"]["MethodSpec"]  # of which the others are kinds
    schema = _tidied({"$defs": schema["$defs"], **whole})
    schema["properties"]["methods"]["items"] = {
        "oneOf": [*({"$ref": f"#/$defs/{each.__name__}"} for each in models), _OWN]
    }
    for model in models:
        _as_written(schema["$defs"][model.__name__], model)
    schema["$defs"]["SearchSpec"]["properties"]["space"] |= _space(schema)
    return {"$schema": _DIALECT, "title": "A sweep of gallop_ray", **schema}


def schema_text() -> str:
    """The schema as a file."""
    return json.dumps(sweep_schema(), indent=1, ensure_ascii=False) + "\n"


def plain(text: str) -> str:
    """A docstring or description in one line a paragraph."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)


def _tidied(node: Any) -> Any:
    """Without pydantic's titles, which repeat the names, and without line breaks inside of paragraphs."""
    if isinstance(node, list):
        return [_tidied(each) for each in node]
    if not isinstance(node, dict):
        return node
    node = {key: value for key, value in node.items() if key != "title" or not isinstance(value, str)}
    if isinstance(node.get("description"), str):
        node["description"] = plain(node["description"])
    return {key: value if key == "default" else _tidied(value) for key, value in node.items()}


def _as_written(schema: dict[str, Any], model: type[MethodSpec]) -> None:
    """A method names its type, and is called by its type where it has no name."""
    of_type, of_name = schema["properties"]["type"], schema["properties"]["name"]
    kind = of_type.pop("default")
    schema["properties"]["type"] = {**of_type, "description": schema["description"]}
    schema["properties"]["name"] = {**of_name, "default": kind}
    schema["required"] = ["type", *schema.get("required", [])]


def _space(schema: dict[str, Any]) -> dict[str, Any]:
    """The keys that search.space may have: those for all methods by name, a method's own by a pattern."""
    ranges = schema["$defs"]["SearchSpec"]["properties"]["space"]["additionalProperties"]
    definitions = schema["$defs"]
    definitions["Range"] = {"description": "The values to try.", **ranges}
    reference = {"$ref": "#/$defs/Range"}
    training = {field: definitions["TrainingSpec"]["properties"][field] for field in offered(TrainingSpec)}
    options: dict[str, Any] = {}
    for model in method_specs():
        of_method = definitions[model.__name__]["properties"]
        options = {field: of_method[field] for field in searchable(model)} | options
    named = {f"training.{field}": each for field, each in training.items()}
    named |= {f"method.{field}": each for field, each in options.items()}
    own = rf"^(?!(training|method)\.)[a-z0-9_\-]+\.({'|'.join(options)}|training\.({'|'.join(training)}))$"
    return {
        "properties": {path: {**reference, "description": each["description"]} for path, each in named.items()},
        "patternProperties": {own: reference},
        "additionalProperties": False,
    }
