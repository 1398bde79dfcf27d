"""What leaves the house is what was trained: to the bit in our own form and merged, without difference through PEFT."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer

from gallop_ray.cli import main
from tests.export.trained import Trained, logits, weights
from tests.training import tiny

DTYPES = ["float32", "bfloat16"]
MASKED = ["gallop", "random"]


def export(trained: Trained, method: str, to: str, output: Path, dtype: str = "float32") -> Path:
    assert main(["export", str(trained.run(method, dtype).path), "--to", to, "--output", str(output)]) == 0
    return output


def seen(trained: Trained, method: str, dtype: str = "float32") -> dict[str, torch.Tensor]:
    return load_file(trained.run(method, dtype).path / "seen.safetensors")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", [*MASKED, "full"])
def test_a_merged_folder_is_the_trained_model_bit_for_bit(
    trained: Trained, tmp_path: Path, method: str, dtype: str
) -> None:
    folder = export(trained, method, "merged", tmp_path / "merged", dtype)
    model, expected = trained.load(dtype, folder), seen(trained, method, dtype)
    assert torch.equal(logits(model), expected.pop("logits"))
    assert tiny.same(weights(model), expected)
    assert not tiny.same(weights(model), weights(trained.load(dtype)))
    tokenizer, before = (AutoTokenizer.from_pretrained(place) for place in (folder, trained.base))
    assert tokenizer("range 1 2 3").input_ids == before("range 1 2 3").input_ids
    assert json.loads((folder / "config.json").read_text())["dtype"] == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", MASKED)
def test_peft_merges_the_trained_model_bit_for_bit(trained: Trained, tmp_path: Path, method: str, dtype: str) -> None:
    folder = export(trained, method, "peft", tmp_path / "peft", dtype)
    loaded, expected = PeftModel.from_pretrained(trained.load(dtype), folder), seen(trained, method, dtype)
    assert torch.equal(logits(loaded), expected["logits"]), "as long as it is not merged"
    merged = loaded.merge_and_unload()
    assert torch.equal(logits(merged), expected.pop("logits"))
    assert tiny.same(weights(merged), expected)


def test_a_peft_folder_is_as_small_as_the_fullest_matrix_lets_it_be(trained: Trained, tmp_path: Path) -> None:
    folder = export(trained, "gallop", "peft", tmp_path / "peft")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("SHIRA", str(trained.base))
    shapes = {n.removesuffix(".weight"): w.shape for n, w in weights(trained.load()).items()}
    counts = {n.split(".weight.")[0]: t.numel() for n, t in load_file(trained.run("gallop").adapter).items()}
    assert config["r"] == max(-(-counts[n] // sum(shapes[n])) for n in counts) > 1
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        module = name.removeprefix("base_model.model.").rpartition(".")[0]
        assert tensor.shape[-1] == config["r"] * sum(shapes[module])
        if name.endswith("shira_indices"):
            assert len({tuple(place) for place in tensor.t().tolist()}) == tensor.shape[1], "no entry comes twice"


def test_a_lora_folder_is_what_peft_itself_would_have_saved(trained: Trained, tmp_path: Path) -> None:
    folder = export(trained, "lora", "peft", tmp_path / "peft")
    loaded = PeftModel.from_pretrained(trained.load(), folder)
    assert torch.equal(logits(loaded), seen(trained, "lora")["logits"])
    config = loaded.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (2, 16, 0.1)
    loaded.save_pretrained(tmp_path / "again")
    ours, theirs = (load_file(place / "adapter_model.safetensors") for place in (folder, tmp_path / "again"))
    assert tiny.same(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_merged_lora_is_the_base_plus_the_scaled_product(trained: Trained, tmp_path: Path, dtype: str) -> None:
    folder = export(trained, "lora", "merged", tmp_path / "merged", dtype)
    expected = weights(trained.load(dtype))
    adapter = load_file(trained.run("lora", dtype).adapter)
    for name in [n for n in adapter if n.endswith("lora_A.weight")]:
        product = adapter[name.replace("lora_A", "lora_B")].float() @ adapter[name].float()
        weight = f"{name.removeprefix('base_model.model.').removesuffix('.lora_A.weight')}.weight"
        expected[weight] += (product * (16 / 2)).to(expected[weight].dtype)
    assert tiny.same(weights(trained.load(dtype, folder)), expected)


@pytest.mark.parametrize("method", ["lora", "peft"])
def test_what_peft_trained_merges_and_loads(trained: Trained, tmp_path: Path, method: str) -> None:
    expected = seen(trained, method)["logits"]
    merged = trained.load(folder=export(trained, method, "merged", tmp_path / "merged"))
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-5)
    loaded = PeftModel.from_pretrained(trained.load(), export(trained, method, "peft", tmp_path / "peft"))
    assert torch.equal(logits(loaded), expected)
    assert not torch.allclose(logits(trained.load()), expected, atol=1e-4), "the run has changed something"


def test_a_delta_is_copied_as_it_is(trained: Trained, tmp_path: Path) -> None:
    folder = export(trained, "gallop", "delta", tmp_path / "new" / "delta")
    (copy,) = folder.iterdir()
    assert copy.read_bytes() == trained.run("gallop").adapter.read_bytes()


def test_the_place_follows_from_the_run_when_none_is_given(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(trained.run("gallop").path), "--to", "delta"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "gallop-1-seed-0-delta")
    assert (tmp_path / "gallop-1-seed-0-delta" / "adapter.safetensors").exists()
