"""Exports of models that are no Llamas: parts that no text reaches, names that PEFT reads as others."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LagunaConfig,
    LagunaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    SiglipVisionConfig,
)

from gallop_ray.cli import main
from gallop_ray.training.pocket import pocket_tokenizer
from tests.exports.trained import Trained, logits, train

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}


def gemma3() -> torch.nn.Module:
    """With a vision tower."""
    text = Gemma3TextConfig(**SIZES, vocab_size=len(pocket_tokenizer()), eos_token_id=0, pad_token_id=1)
    eyes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = SiglipVisionConfig(**eyes, image_size=16, patch_size=8)
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=95)
    )


def laguna() -> torch.nn.Module:
    """Of which PEFT reads `shared_experts` as another name."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    ids = {"vocab_size": len(pocket_tokenizer()), "eos_token_id": 0, "pad_token_id": 1, "bos_token_id": None}
    return LagunaForCausalLM(LagunaConfig(**SIZES, **experts, **ids, shared_expert_intermediate_size=16))


def mixtral() -> torch.nn.Module:
    """With experts of which each is several tensors of the checkpoint."""
    ids = {"vocab_size": len(pocket_tokenizer()), "eos_token_id": 0, "pad_token_id": 1, "bos_token_id": None}
    return MixtralForCausalLM(MixtralConfig(**SIZES, **ids, num_local_experts=4, num_experts_per_tok=2))


def trained_on(make: Callable[[], torch.nn.Module], ranks: Callable, folder: Path) -> Trained:
    torch.manual_seed(0)
    make().save_pretrained(folder / "base")
    pocket_tokenizer().save_pretrained(folder / "base")
    ranks(1)(train, folder / "base", folder / "runs", "float32", {"lora": {"rank": 2}})
    return Trained(folder / "base", folder / "runs")


def test_an_adapter_is_exported_as_it_was_attached_whatever_no_text_reaches(ranks: Callable, tmp_path: Path) -> None:
    trained = trained_on(gemma3, ranks, tmp_path)
    run = trained.run("lora").path
    seen = load_file(run / "seen.safetensors")["logits"]
    for to in ("merged", "peft"):
        assert main(["export", str(run), "--to", to, "--output", str(tmp_path / to)]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(trained.base), tmp_path / "peft")
    assert not [name for name, p in loaded.named_parameters() if "lora" in name and "vision" in name]
    torch.testing.assert_close(logits(merged), seen)
    torch.testing.assert_close(logits(loaded), seen)


def test_a_folder_of_which_peft_would_lose_a_part_is_not_written(
    ranks: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained_on(laguna, ranks, tmp_path).run("lora").path
    assert main(["export", str(run), "--to", "peft", "--output", str(tmp_path / "peft")]) == 2
    said = capsys.readouterr().err
    assert "shared_experts" in said
    assert "--to merged" in said
    assert not (tmp_path / "peft").exists()
    assert main(["export", str(run), "--to", "merged", "--output", str(tmp_path / "merged")]) == 0
    seen = load_file(run / "seen.safetensors")["logits"]
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), seen)


def test_a_merged_mixture_has_the_names_of_its_checkpoint(ranks: Callable, tmp_path: Path) -> None:
    """Those that other programs read: a model in memory has all experts of a layer in one tensor."""
    run = trained_on(mixtral, ranks, tmp_path).run("lora").path
    assert main(["export", str(run), "--to", "merged", "--output", str(tmp_path / "merged")]) == 0
    found, base = load_file(tmp_path / "merged" / "model.safetensors"), load_file(tmp_path / "base/model.safetensors")
    assert found.keys() == base.keys()
    assert "model.layers.0.block_sparse_moe.experts.0.w1.weight" in found
    seen = load_file(run / "seen.safetensors")["logits"]
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), seen)
