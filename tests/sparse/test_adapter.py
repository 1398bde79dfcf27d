"""A saved adapter reproduces what was evaluated, bit for bit, and comes off again without a trace."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gallop_ray.sparse.adapter import apply_adapter
from gallop_ray.sparse.base_settings import base_settings
from gallop_ray.sparse.base_state import base_hash
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.mask import Mask
from gallop_ray.training.context import NullReporter
from gallop_ray.training.engine import Engine
from gallop_ray.training.loop import train
from tests.training import tiny

DTYPES = [torch.float32, torch.bfloat16]


def mask() -> Mask:
    chosen = {name: m.view(-1).nonzero().view(-1).to(torch.int32) for name, m in tiny.mask_tensors().items()}
    return Mask({name: indices for name, indices in chosen.items() if indices.numel()})


def test_the_same_weights_with_another_configuration_are_another_base(tmp_path: Path) -> None:
    path, base = tmp_path / "adapter.safetensors", tiny.model()
    delta = SparseDelta(base, find_candidates(base), mask())
    delta.finalize()
    about = {"base_hash": base_hash(tiny.model()), "base_settings": json.dumps(base_settings(tiny.model()))}
    delta.save(path, about)
    apply_adapter(tiny.model(), path).remove()
    other = tiny.model()
    other.config.rope_parameters["rope_theta"] = 500000.0
    with pytest.raises(
        ValueError, match=r"computes otherwise: .*rope_theta \(was 10000\.0, is 500000\.0\); load it with"
    ):
        apply_adapter(other, path)


def evaluated(model: nn.Module) -> dict[str, Tensor]:
    return {n: w for n, w in tiny.whole_weights(model).items() if not n.endswith(".values")}


def trained_adapter(dtype: torch.dtype, path: Path) -> dict[str, Tensor]:
    """Save the adapter of a delta whose values moved by very different amounts; the weights that were evaluated."""
    model = tiny.model(dtype)
    delta = SparseDelta(model, find_candidates(model), mask())
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for values in delta.parameters:
            sizes = 10 ** torch.empty(values.shape).uniform_(-8, 1, generator=generator)
            values += (torch.randn(values.shape, generator=generator) * sizes).to(dtype)
    delta.write()
    delta.finalize()
    weights = evaluated(model)
    delta.save(path, {"base_hash": base_hash(tiny.model(dtype)), "seed": "3"})
    delta.detach()
    assert tiny.same(tiny.whole_weights(model), tiny.whole_weights(tiny.model(dtype))), "detach restores the base"
    return weights


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_applied_adapter_is_what_was_evaluated_until_it_is_removed(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "adapter.safetensors"
    weights = trained_adapter(dtype, path)
    model, base = tiny.model(dtype), tiny.whole_weights(tiny.model(dtype))
    assert not tiny.same(weights, base)
    applied = apply_adapter(model, path)
    assert tiny.same(tiny.whole_weights(model), weights)
    applied.remove()
    assert tiny.same(tiny.whole_weights(model), base)
    apply_adapter(model, path)
    applied.remove()
    assert tiny.same(tiny.whole_weights(model), weights), "a second remove() does nothing"


def train_on_ranks(stage: int, dtype: str, path: Path) -> dict[str, Tensor]:
    """Two real steps on ranks, then save; the weights that an evaluation would see."""
    sweep = tiny.sweep(stage, dtype, workers=2, steps=2)
    resident = tiny.resident(sweep)
    delta = SparseDelta(resident.model, find_candidates(resident.model), mask())
    engine = Engine(delta.module, resident.config(sweep.training, 4000), torch.optim.AdamW(delta.parameters))
    train(tiny.context(resident, reporter=NullReporter(path)), delta, engine)
    delta.finalize()
    weights = evaluated(resident.model)
    engine.close()
    delta.save(path, {"base_hash": base_hash(tiny.model(resident.dtype))})
    delta.detach()
    return weights


@pytest.mark.parametrize(("stage", "dtype"), [(1, "float32"), (3, "bfloat16")])
def test_what_ranks_have_trained_comes_back_on_one_process(
    ranks: Callable, tmp_path: Path, stage: int, dtype: str
) -> None:
    path = tmp_path / "adapter.safetensors"
    model = tiny.model(getattr(torch, dtype))
    seen = ranks(2)(train_on_ranks, stage, dtype, path)
    apply_adapter(model, path)
    for weights in seen:
        assert tiny.same(tiny.whole_weights(model), weights)
        assert not tiny.same(tiny.whole_weights(tiny.model(model.dtype)), weights)


def test_the_file_holds_sorted_int32_indices_and_float32_deltas(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    trained_adapter(torch.bfloat16, path)
    tensors, expected = load_file(path), mask().indices
    assert {n.rpartition(".")[0] for n in tensors} == {f"{n}.weight" for n in expected}
    for name, indices in expected.items():
        saved, delta = tensors[f"{name}.weight.indices"], tensors[f"{name}.weight.delta"]
        assert (saved.dtype, delta.dtype) == (torch.int32, torch.float32)
        assert saved.tolist() == sorted(indices.tolist())
        assert delta.shape == saved.shape
    with safe_open(path, "pt") as file:
        assert file.metadata()["seed"] == "3"


def test_another_base_is_refused_with_both_hashes(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    trained_adapter(torch.float32, path)
    other = tiny.model()
    with torch.no_grad():
        other.lm_head.weight[0, 0] *= -1
    before = tiny.whole_weights(other)
    for model in (other, tiny.model(torch.bfloat16)):
        with pytest.raises(ValueError, match="load the same weights") as error:
            apply_adapter(model, path)
        assert base_hash(tiny.model())[:12] in str(error.value)
        assert base_hash(model)[:12] in str(error.value)
    assert tiny.same(tiny.whole_weights(other), before)


def test_a_second_adapter_on_top_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    trained_adapter(torch.float32, path)
    model = tiny.model()
    apply_adapter(model, path)
    with pytest.raises(ValueError, match="with no other adapter applied"):
        apply_adapter(model, path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "gallop_ray peft 1", "base_hash": "0"}])
def test_a_foreign_file_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"model.layers.0.mlp.up_proj.weight": torch.zeros(64, 32)}, path, metadata)
    with pytest.raises(ValueError, match=r"other\.safetensors is not a gallop_ray adapter"):
        apply_adapter(tiny.model(), path)


def test_the_hash_sees_every_bit_name_type_and_shape() -> None:
    def hashed(**weights: Tensor) -> str:
        return base_hash(nn.ParameterDict({n: nn.Parameter(w, requires_grad=False) for n, w in weights.items()}))

    zero = torch.zeros(2, 3)
    different = [hashed(a=zero), hashed(b=zero), hashed(a=-zero), hashed(a=zero.bfloat16()), hashed(a=zero.view(3, 2))]
    assert len(set(different)) == len(different)
    assert hashed(a=zero.t()) == hashed(a=zero.view(3, 2)), "the layout in memory does not count"
