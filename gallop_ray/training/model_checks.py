"""What a base model must be before anything is spent on it: whole, finite, a decoder that its tokenizer fits."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

from gallop_ray.spec.configuration import longest_text
from gallop_ray.spec.model_folder import position_table, refused_kind
from gallop_ray.spec.schema import Sweep

_NAMED = 4
_LONGEST = 240  # characters of another's message
_TRIED = 2 * 10**9  # parameters: a pass through a larger model takes long on a CPU


def first_line(error: BaseException) -> str:
    """What an exception of another library says, as one line that is not too long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = (lines[0] if lines else type(error).__name__).rstrip(".")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def refuse_kind(config: PretrainedConfig) -> None:
    """Raises ValueError for a configuration of which no causal language model with trainable weights is made."""
    for reason in refused_kind(config.to_dict()):
        raise ValueError(reason)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"transformers has no causal language model of type {config.model_type}; give a decoder")


def refuse_incomplete(info: Mapping[str, Any]) -> None:
    """Raises ValueError naming the weights that transformers would have drawn at random.

    info: what from_pretrained reports with output_loading_info.
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
    """Raises ValueError naming the weights that hold NaN or infinity: every result would."""
    # In float64 no sum of finite weights overflows, and none hides a NaN.
    bad = [name for name, p in model.named_parameters() if not bool(p.detach().sum(dtype=torch.float64).isfinite())]
    if bad:
        raise ValueError(f"its weights hold NaN or infinity in {_named(bad)}; take another checkpoint")


def refuse_looking_ahead(model: Any) -> None:
    """Raises ValueError where a token changes what is predicted before it, as in BERT and its kin."""
    declared = getattr(model.config, "is_decoder", None) is False
    if not declared and sum(p.numel() for p in model.parameters()) > _TRIED:
        return
    rows = torch.tensor([[2, 3, 4, 5], [2, 3, 4, 6]]) % embeddings(model)
    try:
        with torch.no_grad():
            one, other = model(input_ids=rows, use_cache=False).logits[:, :-1].float()
    except Exception:
        return  # some models have kernels for GPUs alone: what cannot be tried here is not refused
    tolerance = (1e-4 if model.dtype == torch.float32 else 2e-2) * float(one.abs().max())
    if float((one - other).abs().max()) > tolerance:
        raise ValueError("it reads both ways: a token changes what is predicted before it; give a decoder")


def fit_tokenizer(model: Any, tokenizer: Any) -> None:
    """Give the tokenizer an end and a padding token that the model has a vector for; ValueError where it has no end.

    Padding is masked wherever it stands, so the end token will do.
    """
    rows = embeddings(model)
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token; set eos_token in its folder")
    if tokenizer.eos_token_id >= rows:
        raise ValueError(
            f"the tokenizer's end token {tokenizer.eos_token} has id {tokenizer.eos_token_id}, the model has {rows} "
            "embeddings; take the tokenizer of this model, or resize the embeddings and save both"
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token


def refuse_unknown_tokens(rows: int, name: str, texts: Iterable[list[int]]) -> None:
    """Raises ValueError where a text of what `name` names holds a token for which the model has no vector."""
    if (highest := max((max(ids) for ids in texts if ids), default=0)) >= rows:
        raise ValueError(
            f"{name} has token {highest}, the model has {rows} embeddings; take the tokenizer of this model, or resize "
            "the embeddings and save both"
        )


def embeddings(model: Any) -> int:
    """How many tokens the model has a vector for; under ZeRO-3, too, while its weights are whole."""
    return int(model.get_input_embeddings().weight.shape[0])


def refuse_positions(model: Any, sweep: Sweep) -> None:
    """Raises ValueError where texts may be longer than the model has positions."""
    limit, longest = position_limit(model), longest_text(sweep)
    if limit is not None and longest > limit:
        raise ValueError(
            f"training.max_length is {longest}, but the model has {limit} positions; set training.max_length to "
            f"{limit} or less"
        )


def position_limit(model: Any) -> int | None:
    """How many positions the model can tell apart, of one with a table of positions; None for all others."""
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
