"""A model that does not keep examples apart is refused before a run, if a configuration packs."""

from pathlib import Path

import pytest
from transformers import MambaConfig, MambaForCausalLM

from gallop_ray.preflight.findings import Finding
from gallop_ray.preflight.sweep_checks import model
from gallop_ray.spec.schema import Sweep
from gallop_ray.testing.model import of_pocket_vocabulary


def found(folder: Path, training: dict[str, object], space: dict[str, object]) -> list[Finding]:
    document = {"name": "packed", "model": {"name": str(folder)}, "data": {"root": "generated", "train": "range"}}
    document |= {"objective": {"metric": "val_id_accuracy"}, "methods": [{"type": "full"}]}
    return list(model(Sweep.model_validate({**document, "training": training, "search": {"space": space}})))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mamba")
    _, tokenizer = of_pocket_vocabulary()
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0}
    MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=8, **ids)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("training", "space"),
    [({"packing": True}, {}), ({}, {"training.packing": {"choice": [True, False]}})],
    ids=["written", "searched"],
)
def test_it_is_refused_where_a_configuration_packs(folder, training, space):
    (said,) = [each for each in found(folder, training, space) if each.level == "problem"]
    assert "training.packing: this model does not keep examples apart that share a row" in said.text


def test_without_packing_it_is_not(folder):
    assert not [each for each in found(folder, {}, {}) if each.level == "problem"]
