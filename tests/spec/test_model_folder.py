"""What a model folder's files tell by themselves; each folder is one that people really have."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.model_folder import folder_problem
from tests.training.tiny import of_pocket_vocabulary


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    model, tokenizer = of_pocket_vocabulary()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config(folder: Path, **fields: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def pointer(name: str):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3700000\n"
    return lambda folder: (folder / name).write_text(text)


def without_shard(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    first, *others = weights
    save_file({first: weights[first]}, folder / "a.safetensors", metadata={"format": "pt"})
    named = {first: "a.safetensors", **dict.fromkeys(others, "b.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": named}))


def adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def dangling(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/none")


def index_of(value: object):
    return lambda folder: (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": value}))


def header(text: str):
    content = len(text).to_bytes(8, "little") + text.encode() + b" "
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


BROKEN = {
    "a link to nothing": (dangling, "model.safetensors is a link to nothing; download it again"),
    "a folder": (lambda f: (f / "x.safetensors").mkdir(), "x.safetensors is no file; download it again"),
    "a number for a shard": (index_of({"a": 3}), "model.safetensors.index.json cannot be read"),
    "text for offsets": (header('{"a": {"data_offsets": ["x", "y"]}}'), "model.safetensors is not whole"),
    "nested too deeply": (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json is not valid JSON"),
    "quantised by a list": (lambda f: config(f, quantization_config=[1]), "its weights are quantised ([1])"),
    "quantised by a word": (lambda f: config(f, quantization_config="gptq"), "its weights are quantised (gptq)"),
    "cut short": (cut, "model.safetensors is not whole, as after a download that broke off; download it again"),
    "a web page": (lambda f: (f / "model.safetensors").write_text("<!DOCTYPE html>"), "is not whole"),
    "an empty file": (lambda f: (f / "model.safetensors").write_bytes(b""), "is not whole"),
    "a pointer": (pointer("model.safetensors"), "a Git LFS pointer, not the file itself; run `git lfs pull`"),
    "the tokenizer's pointer": (pointer("tokenizer.json"), "tokenizer.json is a Git LFS pointer"),
    "no shard": (without_shard, "names 1 files that are not there, first b.safetensors"),
    "an adapter": (adapter, "it is a PEFT adapter, not a model; merge it"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"it lacks weights (*.safetensors); save all"),
    "bad JSON": (lambda f: (f / "config.json").write_text("{'a': 1}"), "config.json is not valid JSON (Expecting"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json does not say the model_type"),
    "bitsandbytes": (
        lambda f: config(f, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "quantised (bitsandbytes), and such weights cannot be trained; give the unquantised model",
    ),
    "gptq": (lambda f: config(f, quantization_config={"quant_method": "gptq", "bits": 4}), "quantised (gptq)"),
    "compressed": (lambda f: config(f, compression_config={"format": "dense"}), "its weights are quantised"),
    "encoder-decoder": (lambda f: config(f, is_encoder_decoder=True), "an encoder-decoder model; give a decoder"),
}


@pytest.mark.parametrize(("broken", "said"), BROKEN.values(), ids=BROKEN)
def test_a_folder_that_no_run_can_load_is_told_with_the_fix(whole, tmp_path, broken, said):
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    broken(folder)
    found = folder_problem(folder)
    assert found
    assert said in found
    assert "\n" not in found


def test_a_whole_folder_has_nothing_against_it(whole, tmp_path):
    assert folder_problem(whole) is None
    weights = load_file(whole / "model.safetensors")
    shutil.copytree(whole, tmp_path / "old")
    (tmp_path / "old/model.safetensors").unlink()
    torch.save(weights, tmp_path / "old/pytorch_model.bin")
    assert folder_problem(tmp_path / "old") is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./nope", "model folder ./nope does not exist on this machine"),
        (Path(__file__).name, "unknown model test_model_folder.py: neither a preset"),
        (
            "Pocket",
            "unknown model Pocket: neither a preset (pocket, smollm2-135m) nor a folder; did you mean `pocket`?",
        ),
        ("gpt2", "a hub id has an owner, as in openai-community/gpt2"),
    ],
)
def test_what_can_be_no_model_is_refused_with_the_file(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        load_sweep(written(tmp_path, f"model: {{name: {name}}}"))
    assert "model.name" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("./none.jsonl", "there is no such file"),
        ("notes.txt", "there is no such file"),
        (__file__, "give a .jsonl file with a field `text`"),
        (str(Path(__file__).parent), "give a .jsonl file with a field `text`"),
        ("none", "null leaves it out"),
    ],
)
def test_general_text_that_cannot_be_read_is_refused_with_the_file(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f'evaluation.text: "{text}" is not allowed; {said}')):
        load_sweep(written(tmp_path, f"model: {{name: pocket}}\nevaluation: {{text: {text}}}"))


def test_no_general_text_is_a_choice(tmp_path: Path) -> None:
    assert load_sweep(written(tmp_path, "model: {name: pocket}\nevaluation: {text: null}")).evaluation.text is None


def test_numbers_that_json_does_not_have_are_refused_wherever_they_stand(tmp_path: Path) -> None:
    options = "training: {optimizer_options: {eps: .inf}}\nmodel: {name: pocket}"
    with pytest.raises(ValueError, match=r"optimizer_options\.eps: .* is not allowed; must be a finite number"):
        load_sweep(written(tmp_path, options))


def written(tmp_path: Path, lines: str) -> Path:
    """A sweep file of these sections and what every sweep needs."""
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"name: x\n{lines}\ndata: {{root: generated, train: range}}\nmethods: [{{type: gallop}}]\n"
        "search: {space: {training.learning_rate: {choice: [0.001, 0.002]}}}\n"
    )
    return path
