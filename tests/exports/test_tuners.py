"""What tuners with hooks trained: the folder loads with PEFT alone, and says what the run measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests.exports.test_export import DTYPES, export, seen
from tests.exports.trained import Trained, logits, save_base, train
from tests.methods.test_lora_starts import STARTS

ADALORA = {"tuner": "adalora", "options": {"init_r": 4, "target_r": 2, "tfinal": 1, "lora_alpha": 32}}
TUNERS: dict[str, dict[str, Any]] = {
    "adalora": {"type": "peft", "name": "adalora", **ADALORA},
    **{name: {"type": "peft", "name": name, "tuner": "lora", "options": o} for name, o in STARTS.items()},
}


@pytest.fixture(scope="module")
def tuned(ranks: Callable, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("tuners")
    made = Trained(folder / "base", folder / "runs")
    made.base.mkdir()
    save_base(made.base)
    for dtype in DTYPES:
        ranks(1)(train, made.base, made.output, dtype, TUNERS)
    return made


@pytest.mark.parametrize("tuner", TUNERS)
def test_the_folder_gives_the_logits_of_the_run(tuned: Trained, tmp_path: Path, tuner: str) -> None:
    expected = seen(tuned, tuner)["logits"]
    loaded = PeftModel.from_pretrained(tuned.load(), export(tuned, tuner, "peft", tmp_path / "peft"))
    torch.testing.assert_close(logits(loaded), expected, atol=1e-6, rtol=1e-5)
    merged = tuned.load(folder=export(tuned, tuner, "merged", tmp_path / "merged"))
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(tuned.load()), expected, atol=1e-4), "the run has changed something"


@pytest.mark.parametrize("tuner", TUNERS)
def test_so_it_does_in_bfloat16(tuned: Trained, tmp_path: Path, tuner: str) -> None:
    expected = seen(tuned, tuner, "bfloat16")["logits"]
    folder = export(tuned, tuner, "peft", tmp_path / "peft", "bfloat16")
    loaded = PeftModel.from_pretrained(tuned.load("bfloat16"), folder, autocast_adapter_dtype=False)
    torch.testing.assert_close(logits(loaded), expected, atol=2e-2, rtol=2e-2)


def test_a_pruned_adapter_holds_the_ranks_that_are_left(tuned: Trained, tmp_path: Path) -> None:
    folder = export(tuned, "adalora", "peft", tmp_path / "peft")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["total_step"], config["tinit"], config["tfinal"]) == (4, 0, 1)
    left = config["rank_pattern"]
    tensors = load_file(folder / "adapter_model.safetensors")
    assert sum(map(sum, left.values())) == 2 * len(left)
    for name, kept in left.items():
        matrix = f"base_model.model.{name}"
        assert tensors[matrix].shape == (sum(kept), 1)
        assert tensors[f"{matrix[:-1]}A"].shape[0] == tensors[f"{matrix[:-1]}B"].shape[1] == sum(kept)


def test_lora_from_a_part_of_the_weights_leaves_as_plain_lora_of_twice_the_rank(tuned: Trained, tmp_path: Path) -> None:
    config = json.loads((export(tuned, "pissa", "peft", tmp_path / "peft") / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 16, True)
