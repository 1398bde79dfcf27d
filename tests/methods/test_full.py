"""What WiSE-FT and LiNeS make of full fine-tuning's weights, by their formulas."""

from typing import Any

import pytest
import torch

from gallop_ray.methods import make_method
from gallop_ray.spec.schema import Configuration
from tests.training import tiny


@pytest.mark.parametrize(
    ("options", "early", "late"),
    [
        ({"type": "wise_ft", "alpha": 0.7}, 0.7, 0.7),
        ({"type": "lines", "first": 0.25, "last": 0.9}, 0.25, 0.9),
        ({"type": "full"}, 1.0, 1.0),
    ],
)
def test_the_change_is_scaled(options: dict[str, Any], early: float, late: float) -> None:
    model = tiny.model()
    base = {name: p.clone() for name, p in model.named_parameters()}
    spec = Configuration.model_validate({"method": options, "training": {}}).method
    attachment = make_method(spec).attach(model)
    generator = torch.Generator().manual_seed(0)
    changes = {name: torch.randn(p.shape, generator=generator) for name, p in base.items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += changes[name]
    attachment.finalize()
    for name, parameter in model.named_parameters():
        scale = early if "embed_tokens" in name or "layers.0." in name else late
        torch.testing.assert_close(parameter.detach(), base[name] + scale * changes[name])
    attachment.detach()
    assert tiny.same(dict(model.named_parameters()), base)
