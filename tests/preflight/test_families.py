"""plan's estimate on families whose code the meta device does not suit; one that fails is said and decides nothing."""

import re
from collections.abc import Callable

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    DeepseekV3Config,
    JambaConfig,
    MambaConfig,
    MixtralConfig,
    OPTConfig,
    PretrainedConfig,
)

from gallop_ray.preflight.plan import print_plan
from gallop_ray.spec.configuration import resolve
from gallop_ray.spec.schema import Sweep
from gallop_ray.training.memory import Estimate, estimate
from gallop_ray.training.pocket import pocket_tokenizer

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 277}
GATED = {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12}
ROUTED = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "opt": lambda: OPTConfig(**SMALL, ffn_dim=64, word_embed_proj_dim=32),
    "bloom": lambda: BloomConfig(hidden_size=32, n_layer=2, n_head=2, vocab_size=277),
    "mamba": lambda: MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=277, state_size=8),
    "mixtral": lambda: MixtralConfig(**GATED, num_local_experts=4),
    "deepseek_v3": lambda: DeepseekV3Config(**GATED, **LATENT, **ROUTED, first_k_dense_replace=1),
    "jamba": lambda: JambaConfig(
        **GATED, num_experts=2, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False
    ),
}


def a_sweep(**fields: object) -> Sweep:
    data = {"root": "generated", "train": "range"}
    sizes = {"max_length": 32, "micro_batch_size": 2, "batch_size": 2}
    whole = {"name": "families", "model": {"name": "x"}, "data": data, "objective": {"metric": "val_id_accuracy"}}
    return Sweep.model_validate({**whole, "methods": [{"type": "random"}], "training": sizes, **fields})


def estimated(config: PretrainedConfig) -> Estimate:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    sweep = a_sweep()
    return estimate(model, sweep, resolve(sweep, "random", {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_works(family):
    found = estimated(FAMILIES[family]())
    assert found.unknown == ""
    assert found.activations > 2 * 32 * 32 * 4 * 2, "at least what two blocks are given"


@pytest.fixture
def mixtral(tmp_path):
    AutoModelForCausalLM.from_config(FAMILIES["mixtral"]()).save_pretrained(tmp_path)
    pocket_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_plan_says_what_can_be_chosen_from_and_what_large_weights_cannot(mixtral, capsys):
    methods = [{"type": "random"}, {"type": "random", "name": "few", "target_modules": ["q_proj"]}]
    print_plan(a_sweep(model={"name": str(mixtral)}, methods=methods))
    said = capsys.readouterr().out
    assert re.search(
        r"random: chosen from .*% of the model \(q_proj, .*, gate_up_proj of 4 experts, down_proj of", said
    )
    assert re.search(r"few: chosen from .*% of the model \(q_proj\); not .*mlp.experts.gate_up_proj \(", said)


def test_an_estimate_that_fails_is_said_and_the_plan_goes_on(mixtral, capsys, monkeypatch):
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("no such kernel\nand a long table")

    monkeypatch.setattr("transformers.models.mixtral.modeling_mixtral.MixtralModel.forward", fail)
    print_plan(a_sweep(model={"name": str(mixtral)}))
    said = capsys.readouterr().out
    assert "Activations: no estimate: no such kernel. They come on top of the total." in said
    assert "> " in said
