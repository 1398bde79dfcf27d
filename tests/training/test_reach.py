"""What text does not reach is no candidate, a chosen matrix without a gradient ends a run, scores know no dropout."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from gallop_ray.methods import make_method
from gallop_ray.methods.full import Lines
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.spec.other_methods import LinesSpec
from gallop_ray.training.context import NullReporter, Phases
from gallop_ray.training.engine import Engine
from gallop_ray.training.gradient_pass import accumulate
from gallop_ray.training.loop import train
from gallop_ray.training.optimizers import make_optimizer
from gallop_ray.training.resident import LoadedModel
from gallop_ray.training.run import checkpointing, execute, look
from gallop_ray.training.selection import select
from tests.training import tiny

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96}


def gemma3() -> nn.Module:
    """A model of text and images."""
    text = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    vision |= {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=95)
    return Gemma3ForConditionalGeneration(config)


def mamba() -> nn.Module:
    """Its blocks read the weight of dt_proj past the module."""
    return MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=96, state_size=4))


def opt() -> nn.Module:
    """Its blocks drop out by themselves."""
    config = OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=32, dropout=0.3, attention_dropout=0.3)
    return OPTForCausalLM(config)


def with_model(make: Callable[[], nn.Module], **training: Any) -> LoadedModel:
    resident = tiny.resident(tiny.sweep(**training))
    torch.manual_seed(0)
    model = make().requires_grad_(False).eval()
    return replace(resident, model=model, parameters=sum(p.numel() for p in model.parameters()))


def candidates(make: Callable[[], nn.Module], patterns: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Those of a model at which nobody has looked, and those of it afterwards."""
    resident = with_model(make)
    before = [c.name for c in find_candidates(resident.model, patterns)]
    look(resident)
    return before, [c.name for c in find_candidates(resident.model, patterns)]


@pytest.mark.parametrize("patterns", [None, ("q_proj", "v_proj")])
def test_a_vision_tower_is_no_candidate(ranks: Callable, patterns: Sequence[str] | None) -> None:
    before, after = ranks(1)(candidates, gemma3, patterns).pop()
    tower = [name for name in before if "vision" in name]
    assert tower
    assert after == [name for name in before if name not in tower]


def test_a_weight_that_is_read_past_its_module_is_no_candidate(ranks: Callable) -> None:
    before, after = ranks(1)(candidates, mamba, None).pop()
    assert set(before) - set(after) == {f"backbone.layers.{i}.mixer.dt_proj" for i in (0, 1)}


def refused(method: dict[str, Any]) -> str:
    """With what a run ends that has chosen entries of dt_proj, because nobody has looked."""
    resident = with_model(mamba, clip_norm=None)
    try:
        first_steps(resident, method)
    except ValueError as error:
        return str(error)
    return "nothing"


def first_steps(resident: LoadedModel, method: dict[str, Any]) -> None:
    context = tiny.context(resident, method=method)
    chooses: Any = make_method(context.configuration.method)
    there = find_candidates(resident.model)
    delta = SparseDelta(resident.model, there, select(context, there, chooses).mask)
    config = resident.config(context.training, sum(i.numel() for i in delta.indices))
    train(context, delta, Engine(delta.module, config, make_optimizer(context.training, delta.parameters)))


@pytest.mark.parametrize(("method", "where"), [("random", "the first step"), ("saft", "scoring")])
def test_a_chosen_matrix_without_a_gradient_ends_the_run_on_every_rank(
    ranks: Callable, method: str, where: str
) -> None:
    said = ranks(2)(refused, {"type": method, "density": 0.3, "scope": "per_matrix"})
    assert said[0] == said[1]
    assert said[0].startswith(f"{where} gave 2 of 8 chosen matrices no gradient: backbone.layers.0.mixer.dt_proj, ")
    assert said[0].endswith("leave them out of target_modules")


def asked_for(pattern: str) -> None:
    """A run with a mask of these modules."""
    resident = with_model(mamba)
    context = tiny.context(resident, method={"type": "random", "density": 0.001, "target_modules": [pattern]})
    message = f"target module '{pattern}' matches nothing that a text reaches; the model has "
    with pytest.raises(ValueError, match=message):
        execute(resident, context.configuration, 0, {}, NullReporter(Path("/nowhere/adapter.safetensors")))


def test_a_target_that_text_does_not_reach_is_refused_by_name(ranks: Callable) -> None:
    ranks(1)(asked_for, "dt_proj")


def of_lines(make: Callable[[], nn.Module]) -> dict[str, float]:
    resident = with_model(make)
    look(resident)
    return Lines(LinesSpec(first=0.0, last=1.0))._scales(resident.model)


def test_lines_counts_the_blocks_of_text_alone(ranks: Callable) -> None:
    scales = ranks(1)(of_lines, gemma3).pop()
    by_block = {f"language_model.layers.{i}": float(i) for i in (0, 1)}
    for block, expected in by_block.items():
        assert {s for name, s in scales.items() if block in name} == {expected}


def scored(checkpoints: Sequence[bool]) -> list[Tensor]:
    """OPT's gradient sums, with and without gradient checkpointing, each from another random state."""
    found = []
    for seed, recompute in enumerate(checkpoints):
        resident = with_model(opt, gradient_checkpointing=recompute)
        owned, training = OwnedGradients(find_candidates(resident.model)), resident.sweep.training
        torch.manual_seed(seed)
        with checkpointing(resident.model, training), owned.capture_gradients():
            accumulate(resident, resident.train, training, Phases(NullReporter(Path())))
            assert not any(module.training for module in resident.model.modules())
        found.append(torch.cat([owned.take(i).view(-1) for i in owned.owned]))
    return found


def test_scores_are_free_of_dropout_with_checkpointing_too(ranks: Callable) -> None:
    plain, recomputed, again = ranks(1)(scored, (False, True, True)).pop()
    assert torch.equal(recomputed, again)
    assert torch.equal(plain, recomputed)
