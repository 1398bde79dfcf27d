"""What leaves the house is what was trained: to the bit in our own form and merged, without difference through PEFT."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer

from gallop_ray.cli import main
from gallop_ray.disk.tensors import metadata_of
from gallop_ray.exports.shira import smallest_form
from gallop_ray.sparse.adapter import apply_adapter, save_adapter
from tests.exports.trained import Trained, logits, weights
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


@pytest.mark.parametrize(
    ("counts", "r", "whole", "size"),
    [
        ({"a": 200, "b": 190}, 1, (), 2 * 200 * 8),
        ({"a": 200, "b": 1500}, 8, (), 2 * 1600 * 8),  # 25 600 for both, 41 600 with b whole
        ({"a": 200, "b": 5000}, 1, ("b",), 200 * 8 + 40_000),  # 80 000 with r = 25
    ],
)
def test_the_form_is_the_smallest(counts: dict[str, int], r: int, whole: tuple[str, ...], size: int) -> None:
    form = smallest_form(dict.fromkeys(counts, (100, 100)), counts, itemsize=4)
    assert (form.r, form.whole, form.bytes) == (r, whole, size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_matrices_that_are_too_full_are_saved_whole_and_exact(trained: Trained, tmp_path: Path, dtype: str) -> None:
    run = copied_run(trained, tmp_path, dtype)
    names = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.k_proj.weight")
    indices = {names[0]: torch.arange(1500, dtype=torch.int32), names[1]: torch.tensor([3, 40], dtype=torch.int32)}
    deltas = {name: torch.linspace(-1, 1, chosen.numel()) for name, chosen in indices.items()}
    metadata = metadata_of(run / "adapter.safetensors")
    save_adapter(run / "adapter.safetensors", indices, deltas, metadata)
    (run / "mask.json").unlink()
    assert main(["export", str(run), "--to", "peft", "--output", str(tmp_path / "peft")]) == 0
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["modules_to_save"]) == (1, ["model.layers.0.mlp.up_proj"])
    expected = trained.load(dtype)
    apply_adapter(expected, run / "adapter.safetensors")
    loaded = PeftModel.from_pretrained(trained.load(dtype), tmp_path / "peft")
    assert torch.equal(logits(loaded), logits(expected))
    assert tiny.same(weights(loaded.merge_and_unload()), weights(expected))


def copied_run(trained: Trained, tmp_path: Path, dtype: str) -> Path:
    shutil.copytree(trained.output / dtype, tmp_path / "sweep")
    return tmp_path / "sweep" / "gallop-1" / "seed-0"


def test_a_peft_folder_is_as_small_as_it_can_be(trained: Trained, tmp_path: Path) -> None:
    folder = export(trained, "gallop", "peft", tmp_path / "peft")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("SHIRA", str(trained.base))
    shapes = {n.removesuffix(".weight"): w.shape for n, w in weights(trained.load()).items()}
    counts = {n.split(".weight.")[0]: t.numel() for n, t in load_file(trained.run("gallop").adapter).items()}
    form = smallest_form({n: tuple(shapes[n]) for n in counts}, counts, 4)
    assert (config["r"], tuple(config["modules_to_save"] or ())) == (form.r, form.whole)
    assert (folder / "adapter_model.safetensors").stat().st_size < form.bytes + 20_000
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        module = name.removeprefix("base_model.model.").rpartition(".")[0]
        if module in form.whole:
            continue
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


def test_a_hybrid_is_merged_into_one_model(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = trained.load(folder=export(trained, "hybrid", "merged", tmp_path / "merged"))
    expected = seen(trained, "hybrid")["logits"]
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(trained.load()), expected, atol=1e-4), "the run has changed something"
    run = str(trained.run("hybrid").path)
    assert main(["export", run, "--to", "peft", "--output", str(tmp_path / "peft")]) == 2
    assert "use --to merged" in capsys.readouterr().err


def test_a_delta_is_copied_as_it_is(trained: Trained, tmp_path: Path) -> None:
    folder = export(trained, "gallop", "delta", tmp_path / "new" / "delta")
    assert {each.name for each in folder.iterdir()} == {"adapter.safetensors", "prompt.json"}
    copy = folder / "adapter.safetensors"
    assert copy.read_bytes() == trained.run("gallop").adapter.read_bytes()


def test_the_place_follows_from_the_run_when_none_is_given(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(trained.run("gallop").path), "--to", "delta"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "gallop-1-seed-0-delta")
    assert (tmp_path / "gallop-1-seed-0-delta" / "adapter.safetensors").exists()


def test_the_path_of_an_adapter_is_that_of_its_run_and_all_files_have_the_modes_of_others(
    trained: Trained, tmp_path: Path
) -> None:
    adapter = trained.run("lora").adapter
    for to in ("peft", "merged"):
        assert main(["export", str(adapter), "--to", to, "--output", str(tmp_path / to)]) == 0
    (like := tmp_path / "like").touch()
    files = [file for to in ("peft", "merged") for file in (tmp_path / to).iterdir()]
    assert {file.name: file.stat().st_mode for file in files} == {file.name: like.stat().st_mode for file in files}


@pytest.mark.parametrize("method", ["gallop", "lora"])
def test_an_export_says_nothing_of_what_its_libraries_think_of_each_other(
    trained: Trained, tmp_path: Path, method: str
) -> None:
    run, folder = str(trained.run(method).path), str(tmp_path / "out")
    command = [sys.executable, "-m", "gallop_ray", "export", run, "--to", "merged", "--output", folder]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "warning" not in ended.stderr.lower()
