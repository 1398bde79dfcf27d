"""A sweep goes on with the content that it was begun with, whatever its files are called."""

import json
from dataclasses import replace

import pytest

from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.identity import begun, settle
from gallop_ray.sparse.base_state import base_hash
from gallop_ray.tasks.encode import Encoded
from gallop_ray.tasks.examples import Example, TaskData
from gallop_ray.training.resident import LoadedModel
from tests.training.tiny import of_pocket_vocabulary, sweep

FOUND = {"base model": "a" * 64, "examples of": {"parity": {"train": "b" * 64, "test": "c" * 64}}}


def a_resident(example: Example, token: int = 5) -> LoadedModel:
    model, tokenizer = of_pocket_vocabulary()
    tasks = {"parity": TaskData("parity", train=[example], validation=[example], test=[example])}
    trains = {"parity": [Encoded([4, token], [-100, token])]}
    return LoadedModel(sweep(), model, tokenizer, base_hash(model), 1, tasks, trains["parity"], trains)


def test_what_has_changed_is_named(tmp_path):
    folder = SweepFolder(tmp_path)
    settle(folder, FOUND)
    settle(folder, FOUND)
    with pytest.raises(ValueError, match=r"base model \(was aaaaaaaaaaaa, is dddddddddddd\); put back what it was"):
        settle(folder, {**FOUND, "base model": "d" * 64})
    other = {"parity": {"train": "b" * 64, "test": "e" * 64}}
    with pytest.raises(ValueError, match=r"names: examples of parity test \(was cccccccccccc, is eeeeeeeeeeee\);"):
        settle(folder, {**FOUND, "examples of": other})
    settle(folder, FOUND)


def test_a_sweep_without_hashes_goes_on_and_has_them_from_then_on(tmp_path):
    folder = SweepFolder(tmp_path)
    (tmp_path / "base.json").write_text("{}")
    first = begun(folder)
    assert begun(folder) == first
    settle(folder, FOUND)
    assert begun(folder) == first
    assert json.loads((tmp_path / "identity.json").read_text())["base model"] == "a" * 64


def test_identity_follows_content_and_not_place():
    example = Example("Is 2 even?", "", ("true", "false"), ("true", "false"), 0)
    one = a_resident(example).identity
    assert a_resident(replace(example, place="elsewhere.jsonl:7")).identity == one
    flipped = a_resident(replace(example, label=1)).identity
    assert flipped["examples of"] != one["examples of"]
    assert flipped["base model"] == one["base model"]
    assert a_resident(example, token=6).identity["tokens of"] != one["tokens of"]
    other = a_resident(example)
    other.model.lm_head.weight.data[3, 3] += 1
    assert base_hash(other.model) != one["base model"]
