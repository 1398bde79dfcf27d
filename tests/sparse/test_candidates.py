"""Which matrices may be trained, how many of their entries, and which rank owns which."""

import random

import peft
import pytest
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from gallop_ray.methods import make_method
from gallop_ray.sparse.budget import entries_to_choose
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.gradients import assign_owners
from gallop_ray.spec.mask_methods import LiftSpec, SmtSpec
from gallop_ray.spec.method import LoraRank
from tests.training import tiny

PROJECTIONS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
ALL = [f"model.layers.{block}.{name}" for block in (0, 1) for name in PROJECTIONS]


def names(model: nn.Module, *patterns: str) -> list[str]:
    return [c.name for c in find_candidates(model, patterns or None)]


def tied() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def test_the_default_is_the_linear_layers_of_the_blocks_in_module_order() -> None:
    assert names(tiny.model()) == ALL
    assert names(tied()) == ALL[: len(PROJECTIONS)]


def by_text(model: nn.Module, target_modules: str) -> list[str]:
    return [c.name for c in find_candidates(model, target_modules)]


def test_a_candidate_says_where_it_hangs() -> None:
    model = tiny.model()
    candidate = find_candidates(model, ["layers.1.mlp.down_proj"])[0]
    assert candidate.module is model.model.layers[1].mlp.down_proj
    assert getattr(candidate.parent, candidate.attribute) is candidate.module
    assert (candidate.shape, candidate.numel) == ((32, 64), 2048)


def test_patterns_are_ends_of_paths_and_may_hold_stars() -> None:
    model = tiny.model()
    assert names(model, "q_proj") == [n for n in ALL if n.endswith("q_proj")]
    assert names(model, "mlp.up_proj", "k_proj") == [n for n in ALL if n.endswith(("up_proj", "k_proj"))]
    assert names(model, "layers.0.*_proj") == ALL[: len(PROJECTIONS)]
    assert names(model, "lm_head") == ["lm_head"]
    assert names(model, "model.layers.1.mlp.gate_proj") == ["model.layers.1.mlp.gate_proj"]


def test_a_pattern_that_matches_nothing_is_refused_with_what_there_is() -> None:
    layers = "down_proj, embed_tokens, gate_proj, input_layernorm, k_proj, lm_head, norm, .*, up_proj, v_proj"
    for pattern in ("query", "proj", "self_attn"):
        with pytest.raises(ValueError, match=f"'{pattern}' matches nothing; the model has {layers}"):
            names(tiny.model(), "q_proj", pattern)


def test_a_shared_weight_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"lm_head shares its weight with model\.embed_tokens"):
        names(tied(), "q_proj", "lm_head")


def test_embeddings_and_norms_are_taken_on_request() -> None:
    candidates = find_candidates(tiny.model(), ["embed_tokens", "layers.0.input_layernorm"])
    assert [c.name for c in candidates] == ["model.embed_tokens", "model.layers.0.input_layernorm"]
    assert [tuple(c.shape) for c in candidates] == [(tiny.VOCABULARY, 32), (32,)]
    # LoRA trains an embedding like any matrix, and has nothing for a vector.
    assert entries_to_choose(LoraRank(lora_rank=2), candidates, 10**9) == 2 * (tiny.VOCABULARY + 32)


@pytest.mark.parametrize("spec", [LiftSpec(density=0.01), SmtSpec(density=0.01)])
def test_a_vector_is_refused_where_the_score_is_a_matrix_s(spec: LiftSpec | SmtSpec) -> None:
    candidates = find_candidates(tiny.model(), ["q_proj", "input_layernorm"])
    with pytest.raises(ValueError, match=rf"{spec.type} scores matrices, and model.layers.0.input_layernorm has none"):
        make_method(spec).quotas(candidates, 10**6)


def test_a_model_whose_blocks_have_no_linear_layers_is_refused() -> None:
    model = nn.Sequential(nn.ModuleDict({"table": nn.Embedding(4, 8), "mix": nn.Bilinear(2, 2, 1)}))
    with pytest.raises(ValueError, match=r"no linear layers inside its blocks; .* target_modules: it has table$"):
        names(model)
    assert names(model, "table") == ["0.table"]


def test_gpt_2_s_transposed_layers_are_linear_layers() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    assert [name.removeprefix("transformer.h.0.") for name in names(model)] == [
        *("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]


def test_all_linear_is_every_linear_layer_but_the_head_wherever_it_is() -> None:
    config = OPTConfig(
        vocab_size=16, hidden_size=16, word_embed_proj_dim=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=2
    )
    model = OPTForCausalLM(config)
    inside = names(model)
    outside = ["model.decoder.project_out", "model.decoder.project_in"]
    assert sorted(by_text(model, "all-linear")) == sorted([*outside, *inside])
    ours = set(by_text(model, "all-linear"))
    assert peft_s(model, "all-linear") == ours


@pytest.mark.parametrize("expression", [r".*\.[qv]_proj", r"model\.layers\.1\..*(up|down)_proj", "lm_head|.*k_proj"])
def test_a_text_is_a_regular_expression_for_whole_paths_as_in_peft(expression: str) -> None:
    found = by_text(tiny.model(), expression)
    assert found
    assert set(found) == peft_s(tiny.model(), expression)


def peft_s(model: nn.Module, target_modules: str) -> set[str]:
    """The modules that PEFT would adapt."""
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=1, target_modules=target_modules, task_type="CAUSAL_LM"))
    return set(adapted.targeted_module_names)


def test_an_expression_that_matches_no_whole_path_says_what_to_write() -> None:
    with pytest.raises(
        ValueError, match=r"'q_proj' matches no whole path, as model.embed_tokens; .* a list, \[q_proj\]"
    ):
        by_text(tiny.model(), "q_proj")
    with pytest.raises(ValueError, match=r"'.*query' matches no whole path, .*; the model has down_proj, embed_tokens"):
        by_text(tiny.model(), ".*query")


def test_routers_that_compute_more_than_a_product_are_taken_on_request_only() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "intermediate_size_mlp": 32, "vocab_size": 64, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    model = Llama4ForCausalLM(Llama4TextConfig(**sizes, **heads, num_local_experts=2, pad_token_id=0))
    assert not [name for name in names(model) if "router" in name]
    assert [name for name in names(model, "router") if "router" in name]


def test_a_fraction_is_a_share_of_all_parameters() -> None:
    model = tiny.model()
    candidates, total = find_candidates(model), sum(p.numel() for p in model.parameters())
    assert entries_to_choose(0.01, candidates, total) == round(0.01 * total)
    assert entries_to_choose(1e-9, candidates, total) == 1
    available = sum(c.numel for c in candidates)
    assert entries_to_choose(available / total, candidates, total) == available
    with pytest.raises(ValueError, match=rf"asks for {available + 1:,} entries.* hold {available:,} .*lower the dens"):
        entries_to_choose((available + 1) / total, candidates, total)


@pytest.mark.parametrize("patterns", [None, ["q_proj", "v_proj"], ["down_proj"]])
def test_a_lora_rank_asks_for_what_peft_trains(patterns: list[str] | None) -> None:
    candidates = find_candidates(tiny.model(), patterns)
    for rank in (1, 8):
        config = peft.LoraConfig(r=rank, target_modules=[c.name for c in candidates])
        trained, _ = peft.get_peft_model(tiny.model(), config).get_nb_trainable_parameters()
        assert entries_to_choose(LoraRank(lora_rank=rank), candidates, 10**9) == trained


def test_a_lora_rank_above_the_candidates_is_refused() -> None:
    candidates = find_candidates(tiny.model(), ["k_proj"])  # 16 x 32 each: rank 10 holds 480 entries, rank 11 holds 528
    assert entries_to_choose(LoraRank(lora_rank=10), candidates, 10**6) == 960
    with pytest.raises(ValueError, match=r"asks for 1,056 entries, but the target modules hold 1,024"):
        entries_to_choose(LoraRank(lora_rank=11), candidates, 10**6)


def test_owners_are_the_largest_first_to_the_least_loaded() -> None:
    assert assign_owners([5, 5, 5, 1, 1, 1], 2) == [0, 1, 0, 1, 1, 1]
    assert assign_owners([1, 9, 3], 1) == [0, 0, 0]
    assert assign_owners([4, 7], 3) == [1, 0]
    assert assign_owners([], 2) == []


def test_owners_are_balanced_and_always_the_same() -> None:
    draw = random.Random(0)
    for _ in range(100):
        sizes = [draw.choice((7, 64, 4096, draw.randrange(1, 10_000))) for _ in range(draw.randrange(1, 40))]
        ranks = draw.randrange(1, 9)
        owners = assign_owners(sizes, ranks)
        loads = [sum(s for s, o in zip(sizes, owners, strict=True) if o == rank) for rank in range(ranks)]
        assert max(loads) - min(loads) <= max(sizes)
        assert assign_owners(tuple(sizes), ranks) == owners
