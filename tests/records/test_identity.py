"""A sweep goes on with the content that it was begun with, whatever its files are called."""

import json
from dataclasses import replace

import pytest
import torch

from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.identity import begun, settle
from gallop_ray.sparse.base_settings import base_settings
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


def test_another_configuration_or_buffer_of_the_model_is_named_and_kept_by_older_sweeps_from_their_next_start(tmp_path):
    folder, (model, _) = SweepFolder(tmp_path), of_pocket_vocabulary()
    model.register_buffer("scale", torch.ones(2))
    settle(folder, FOUND)
    begun_with = {**FOUND, "model settings": base_settings(model)}
    settle(folder, begun_with)
    settle(folder, begun_with)
    model.config.rope_parameters["rope_theta"] = 500000.0
    model.scale[0] = 2
    with pytest.raises(ValueError, match=r"rope_theta \(was 10000\.0, is 500000\.0\), .*buffer scale \(was"):
        settle(folder, {**FOUND, "model settings": base_settings(model)})


def test_names_versions_and_fields_of_another_transformers_are_no_change(tmp_path):
    folder, (model, _) = SweepFolder(tmp_path), of_pocket_vocabulary()
    model.config.only_here = 7
    settle(folder, {**FOUND, "model settings": base_settings(model)})
    del model.config.only_here
    model.config.another = "x"
    model.config.name_or_path, model.config.transformers_version = "elsewhere", "6.1"
    model.config.use_cache = not model.config.use_cache
    settle(folder, {**FOUND, "model settings": base_settings(model)})


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
