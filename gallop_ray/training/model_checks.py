"""Checks of a base model before anything is spent: complete, finite, a decoder, and its tokenizer fits."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
)

from gallop_ray.spec.model_folder import position_table, refused_kind
from gallop_ray.spec.schema import Sweep

_NAMED = 4
_LONGEST = 240  # characters of another's message
_TRIED = 2 * 10**9  # parameters: a pass through a larger model takes long on a CPU


def first_line(error: BaseException) -> str:
    """The first line of another library's message, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = (lines[0] if lines else type(error).__name__).rstrip(".")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def refuse_kind(config: PretrainedConfig) -> None:
    """Raises ValueError for a configuration that does not give a causal language model with trainable weights."""
    for reason in refused_kind(config.to_dict()):
        raise ValueError(reason)
    if model_class(config) is None:
        raise ValueError(f"transformers has no causal language model of type {config.model_type}; give a decoder")


def model_class(config: PretrainedConfig) -> Any | None:
    """The Auto class that makes a causal language model of this; one of text and images is one, without images."""
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return None
    return None if config.get_text_config(decoder=True).is_encoder_decoder else AutoModelForImageTextToText


def refuse_incomplete(info: Mapping[str, Any]) -> None:
    """Raises ValueError naming weights that transformers would initialize at random.

    info: what from_pretrained returns with output_loading_info.
    """
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"the checkpoint lacks {_named(missing)}, which would be drawn at random; take the complete checkpoint"
        )
    if others := sorted(info["mismatched_keys"]):
        sizes = [f"{name} ({tuple(there)} there, {tuple(asked)} by config.json)" for name, there, asked in others]
        raise ValueError(
            f"weights have other sizes than config.json says: {_named(sizes)}; take the files of one model"
        )
    if errors := list(info.get("error_msgs") or ()):
        raise ValueError(f"weights cannot be loaded: {first_line(RuntimeError(errors[0]))}")


def refuse_not_finite(model: Any) -> None:
    """Raises ValueError naming the weights that hold NaN or infinity."""
    # One sum per weight: in float64 finite weights cannot overflow it, and NaN and infinity come through.
    bad = [name for name, p in model.named_parameters() if not bool(p.detach().sum(dtype=torch.float64).isfinite())]
    if bad:
        raise ValueError(f"its weights hold NaN or infinity in {_named(bad)}; take another checkpoint")


def refuse_looking_ahead(model: Any) -> None:
    """Raises ValueError where a token changes what is predicted before it, as in BERT-like models."""
    declared = getattr(model.config, "is_decoder", None) is False
    if not declared and sum(p.numel() for p in model.parameters()) > _TRIED:
        return
    rows = torch.tensor([[2, 3, 4, 5], [2, 3, 4, 6]]) % embeddings(model)
    try:
        with torch.no_grad():
            one, other = model(input_ids=rows, use_cache=False).logits[:, :-1].float()
    except Exception as error:
        if type(model.config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ValueError(f"it reads no text without images ({first_line(error)}); give a decoder") from error
        return  # some models have kernels for GPUs only: what cannot be tried here is not refused
    tolerance = (1e-4 if model.dtype == torch.float32 else 2e-2) * float(one.abs().max())
    if float((one - other).abs().max()) > tolerance:
        raise ValueError("it reads both ways: a token changes what is predicted before it; give a decoder")


def refuse_unknown_tokens(rows: int, name: str, texts: Iterable[list[int]]) -> None:
    """Raises ValueError, mentioning `name`, where a text has a token without an embedding in the model."""
    if (highest := max((max(ids) for ids in texts if ids), default=0)) >= rows:
        raise ValueError(
            f"{name} has token {highest}, the model has {rows} embeddings; take the tokenizer of this model, or resize "
            "the embeddings and save both"
        )


def embeddings(model: Any) -> int:
    """The number of token embeddings; under ZeRO-3 only before the weights are split."""
    return int(model.get_input_embeddings().weight.shape[0])


def refuse_positions(model: Any, sweep: Sweep) -> None:
    """Raises ValueError where texts may be longer than the model has positions."""
    limit, longest = position_limit(model), sweep.training.max_length
    if limit is not None and longest > limit:
        raise ValueError(
            f"training.max_length is {longest}, but the model has {limit} positions; set training.max_length to "
            f"{limit} or less"
        )


def position_limit(model: Any) -> int | None:
    """The number of positions of a model with a table of them; None for all others."""
    config = model.config.get_text_config().to_dict()
    if (known := position_table(config)) is not None:
        return known
    most = config.get("max_position_embeddings")
    names = ("wpe", "embed_positions", "position_embeddings", "position_embedding", "pos_emb")
    learned = (
        m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] in names and isinstance(m, torch.nn.Embedding)
    )
    return most if any(learned) else None


def _named(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
