"""The published JSON Schema: up to date, true to the sweep files, and with something to say about every field."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from gallop_ray.spec.json_schema import schema_text, sweep_schema
from gallop_ray.spec.plain_yaml import Loader

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
VALIDATOR = Draft202012Validator(sweep_schema())
MINIMAL = {
    "name": "a",
    "model": {"name": "pocket"},
    "data": {"root": "generated", "train": "range", "ood": ["max"]},
    "methods": [{"type": "gallop"}, {"type": "lora", "name": "lora_q"}],
}


def mistakes(data: object) -> list[str]:
    """Where in the data the schema finds something wrong."""
    errors = VALIDATOR.iter_errors(data)
    return [".".join(map(str, error.absolute_path)) for error in errors]


def written(text: str) -> Any:
    return yaml.load(text, Loader)


def test_the_published_schema_is_up_to_date():
    Draft202012Validator.check_schema(sweep_schema())
    assert (ROOT / "docs/sweep.schema.json").read_text() == schema_text(), "run `make pages`"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_file_names_the_schema_and_fits_it(path):
    header = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text())
    assert header is not None
    assert (path.parent / header[1]).samefile(ROOT / "docs/sweep.schema.json")
    assert mistakes(written(path.read_text())) == []


@pytest.mark.parametrize(
    "more",
    [
        "seeds: 3",
        "seeds: [0, 7]",
        "confirmation: {seeds: 2}",
        "resources: {slots: 2}",
        "objective: {metrics: [val_id_accuracy, val_forget_ratio]}",
        "training: {learning_rate: 1e-4, clip_norm: null}",
        "methods: [{type: gallop, density: {lora_rank: 8}}, {type: peft, name: ia3, tuner: ia3}]",
        "search: {space: {method.density: {log: [0.001, 0.1]}, lora_q.training.learning_rate: {choice: [1e-4, 1e-3]}}}",
        "search: {space: {gallop.selection_ratio: {linear: [0.1, 1]}, lora_q.rank: {integer: [4, 8]}}}",
    ],
)
def test_what_users_write_fits(more):
    assert mistakes(MINIMAL | written(more)) == []


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ("seed: 3", ""),
        ("name: a/b", "name"),
        ("seeds: 0", "seeds"),
        ("methods: []", "methods"),
        ("methods: [{density: 0.1}]", "methods.0"),
        ("methods: [{type: galop}]", "methods.0"),
        ("methods: [{type: gallop, rank: 8}]", "methods.0"),
        ("methods: [{type: gallop, density: 2}]", "methods.0"),
        ("training: {learning_rate: 0}", "training.learning_rate"),
        ("training: {epochs: many}", "training.epochs"),
        ("search: {space: {gallop.densty: {log: [0.1, 0.2]}}}", "search.space"),
        ("search: {space: {method.density: {log: [0.1]}}}", "search.space.method.density"),
        ("search: {space: {method.density: [0.1, 0.2]}}", "search.space.method.density"),
        ("search: {space: {method.density: {choice: []}}}", "search.space.method.density"),
    ],
)
def test_mistakes_are_found_where_they_are(more, where):
    assert mistakes(MINIMAL | written(more)) == [where]


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every field with its description, or that of the section it holds."""
    for name, section in {"Sweep": schema, **schema["$defs"]}.items():
        for field, each in section.get("properties", {}).items():
            target = schema["$defs"].get(each.get("$ref", "").rpartition("/")[2], {})
            inner = [schema["$defs"][a["$ref"].rpartition("/")[2]] for a in each.get("anyOf", ()) if "$ref" in a]
            described = [each, target, *inner]
            yield f"{name}.{field}", next((d["description"] for d in described if d.get("description")), "")


def test_every_field_is_described():
    assert [field for field, text in fields(sweep_schema()) if len(text) < 5] == []
