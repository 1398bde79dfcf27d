"""The arms of the sweep benchmark do the same work."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from benchmarks import plain_script, sweep
from benchmarks.models import setting
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.configuration import configuration_key, resolve
from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.encode import encode
from gallop_ray.tasks.load import load_task
from gallop_ray.training.models import load_model
from gallop_ray.training.pocket import pocket_config, pocket_tokenizer


@pytest.fixture
def asked(tmp_path: Path) -> Sweep:
    """The quick size."""
    shared = setting(quick=True)
    sweep.write_data(tmp_path / "data", {"train": 8, "validation": 4, "test": 4})
    model = sweep.random_weights(shared, tmp_path / "model")
    document = sweep.document(shared, model, str(tmp_path / "data"), steps=2, per_method=1)
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**document, "output": str(tmp_path)}))
    return load_sweep(str(tmp_path / "sweep.yaml"), [])


@pytest.mark.parametrize("length", [16, 128])
def test_every_example_fills_its_length(asked: Sweep, length: int) -> None:
    data = load_task("words", asked.data)
    for example in (*data.train, *data.validation, *data.test):
        assert len(encode(example, pocket_tokenizer(), asked.data.prompt, length).input_ids) == length


def test_the_plain_script_trains_as_many_entries_as_ours(asked: Sweep, tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "script")
    folder.create(json.loads(asked.model_dump_json()))
    points = {"gallop": {"method.density": {"lora_rank": 4}}, "lora": {"method.rank": 4}}
    for method, values in points.items():
        configuration = resolve(asked, method, values)
        folder.configuration(configuration_key(configuration)).create(configuration.model_dump(mode="json"))
    plain_script.main(folder)
    wide, narrow = pocket_config().intermediate_size, pocket_config().hidden_size
    entries = 4 * pocket_config().num_hidden_layers * (4 * (narrow + narrow) + 3 * (narrow + wide))
    for result, phases in zip(folder.results(), ({"scoring", "training"}, {"training"}), strict=True):
        assert phases < result.seconds.keys()
    for run in folder.runs():
        saved = load_file(run.path / "adapter" / "adapter_model.safetensors")
        values = [value for name, value in saved.items() if not name.endswith("shira_indices")]
        assert sum(value.numel() for value in values) == entries
        assert all(bool(torch.isfinite(value).all()) for value in values)
        assert any(bool(value.any()) for value in values)


def test_the_model_with_random_weights_loads(asked: Sweep) -> None:
    model, tokenizer = load_model(asked.model)
    assert model.config.vocab_size == len(tokenizer)
