"""Equal budgets: what a lora_rank asks for on the shapes of real models, without their weights."""

import pytest

from gallop_ray.methods import MaskMethod, make_method
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.spec.data import ModelSpec
from gallop_ray.spec.mask_methods import RandomSpec
from gallop_ray.spec.method import LoraRank
from gallop_ray.training.models import meta_model

TARGETS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
RANKS = (8, 16, 32, 64)


@pytest.mark.parametrize(
    ("name", "percents"),
    [
        ("meta-llama/Meta-Llama-3-8B", (0.2345, 0.4679, 0.9314, 1.8456)),
        ("google/gemma-2b", (0.3664, 0.7301, 1.4496, 2.8578)),
    ],
)
def test_a_rank_asks_for_as_much_as_lora_trains(name: str, percents: tuple[float, ...]) -> None:
    model = meta_model(ModelSpec(name=name))
    candidates, total = find_candidates(model, TARGETS), sum(p.numel() for p in model.parameters())
    for rank, percent in zip(RANKS, percents, strict=True):
        for scope in ("global", "per_layer", "per_matrix"):
            method = make_method(RandomSpec(density=LoraRank(lora_rank=rank), scope=scope))
            assert isinstance(method, MaskMethod)
            k = sum(quota.k for quota in method.quotas(candidates, total))
            assert 100 * k / (total + k) == pytest.approx(percent, abs=5e-5)
