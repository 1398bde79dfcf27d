"""Tiny random models of many families: two blocks of width 32, the pocket model's vocabulary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from gallop_ray.training.model_checks import model_class
from gallop_ray.training.pocket import pocket_tokenizer

_WIDTH: Mapping[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_GATED: Mapping[str, Any] = {**_WIDTH, "num_key_value_heads": 2, "intermediate_size": 64, "head_dim": 8}
_LATENT: Mapping[str, Any] = {
    **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12},
    **{"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    **{"first_k_dense_replace": 1, "n_shared_experts": 1, "num_key_value_heads": 4},
}
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": _GATED,
    "mistral": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "gemma": _GATED,
    "gemma2": _GATED,
    "gemma3_text": _GATED,
    "phi3": _GATED,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": {**_WIDTH, "intermediate_size": 64},
    "opt": {**_WIDTH, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 128},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": _WIDTH,
    "olmo2": _GATED,
    "granite": _GATED,
    "smollm3": _GATED,
    "cohere": {**_GATED, "logit_scale": 1.0},
    "glm4": _GATED,
    "gpt_oss": {**_GATED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {**_GATED, "num_local_experts": 4},
    "qwen3_moe": {**_GATED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "deepseek_v3": {**_GATED, **_LATENT},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
}
"""By transformers' name of the family, the options that make it small."""
_EYES: Mapping[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
_SIZES_BY_PART = {name: size for name, size in _GATED.items() if name != "head_dim"}
OF_TEXT_AND_IMAGES: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "llava": (
        {"model_type": "llama", **_GATED},
        {
            "vision_config": {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, **_EYES},
            "marks": ("image_token_index",),
        },
    ),
    "qwen2_vl": (
        {**_SIZES_BY_PART, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}},
        {
            "vision_config": {"embed_dim": 16, "depth": 2, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2},
            "marks": ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
        },
    ),
}
"""Likewise, the options of the text model, and the others."""
_IMAGE_TOKENS = 4
MIXTURES = ("gpt_oss", "mixtral", "qwen3_moe", "deepseek_v3")
"""Those with experts."""


def make_model(family: str, **more: Any) -> nn.Module:
    """A model with random weights, larger than at the start of a pre-training, so that what is chosen matters."""
    tokenizer = pocket_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    of_text = {"vocab_size": len(tokenizer) + _IMAGE_TOKENS, **ids}
    if family in FAMILIES:
        config = AutoConfig.for_model(family, **of_text, **FAMILIES[family], **more)
    else:
        text, others = OF_TEXT_AND_IMAGES[family]
        marks = {name: len(tokenizer) + i for i, name in enumerate(others.get("marks", ()))}
        parts = {name: value for name, value in others.items() if name != "marks"}
        config = AutoConfig.for_model(family, text_config={**of_text, **text}, **parts, **marks)
    made: nn.Module = model_class(config).from_config(config, dtype=torch.float32)  # type: ignore[union-attr]
    return made


def write_model(family: str, folder: Path) -> Path:
    """A folder as a user has one: the model and its tokenizer."""
    made: Any = make_model(family)
    made.save_pretrained(folder)
    pocket_tokenizer().save_pretrained(folder)
    return folder
