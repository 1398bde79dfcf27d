"""SynFlow's pass runs on every family, finds the same by either attention, and leaves the weights as they were."""

import pytest
import torch
from torch import nn

from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.synaptic_flow import flow_pass, magnitudes, refuse_still
from gallop_ray.testing.model import same, whole_weights
from tests.families import FAMILIES, make_model
from tests.training import tiny

CPU = torch.device("cpu")
EAGER_ONLY = ("gemma2", "bloom", "gpt_oss", "mamba")
STILL = ("gpt_neox", "bloom", "falcon", "cohere")
"""LayerNorms whose biases are 0, or that have none."""


def flows(model: nn.Module) -> dict[str, torch.Tensor]:
    """dR/d|w| of every candidate."""
    candidates = find_candidates(model)
    owned = OwnedGradients(candidates, "flow")
    with owned.capture():
        flow_pass(model, CPU, counted=True)
    return {c.name: owned.take(i) for i, c in enumerate(candidates)}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_flows_and_keeps_its_weights(family: str) -> None:
    by = {}
    for attention in ("eager",) if family in EAGER_ONLY else ("eager", "sdpa"):
        model = make_model(family, attn_implementation=attention).eval().requires_grad_(False)
        before = whole_weights(model)
        by[attention] = flows(model)
        assert same(whole_weights(model), before)
    for found in by.values():
        for name, flow in found.items():
            assert bool(flow.isfinite().all()), name
            torch.testing.assert_close(flow, by["eager"][name], rtol=1e-3, atol=1e-6 * float(flow.abs().max()))
    if family in STILL:
        with pytest.raises(ValueError, match="no flow"):
            refuse_still(by["eager"].values())
    else:
        refuse_still(by["eager"].values())


def test_both_zeros_come_back_also_after_a_failure() -> None:
    layer = nn.Linear(2, 2, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    layer.weight.copy_(torch.tensor([[0.0, -0.0], [-1.5, 2.0]]))
    before = layer.weight.view(torch.int16).clone()
    with magnitudes(layer):
        assert not layer.weight.signbit().any()
    assert torch.equal(layer.weight.view(torch.int16), before)
    with pytest.raises(KeyError), magnitudes(layer):
        raise KeyError
    assert torch.equal(layer.weight.view(torch.int16), before)


def test_a_model_that_cannot_be_run_so_is_refused_with_its_weights_in_place() -> None:
    model = tiny.model()
    before = whole_weights(model)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="eager or sdpa, not flash_attention_2"):
        flow_pass(model, CPU, counted=True)
    with pytest.raises(ValueError, match="input embeddings"):
        flow_pass(nn.Linear(2, 2), CPU, counted=True)
    assert same(whole_weights(model), before)
