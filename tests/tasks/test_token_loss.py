"""The token loss and its gradient equal torch's, whatever the chunks."""

import pytest
import torch
from torch.nn import functional

from gallop_ray.tasks import token_loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 40, 1 << 22])
def test_it_equals_torchs_cross_entropy(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, chunk: int) -> None:
    monkeypatch.setattr(token_loss, "_CHUNK", chunk)
    torch.manual_seed(0)
    logits = (5 * torch.randn(17, 19)).to(dtype).requires_grad_()
    targets, weights = torch.randint(0, 19, (17,)), torch.rand(17)
    losses = token_loss.token_losses(logits, targets)
    expected = functional.cross_entropy(logits.float(), targets, reduction="none")
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected, atol=2e-6, rtol=1e-5)
    (gradient,) = torch.autograd.grad((losses * weights).sum(), logits)
    (reference,) = torch.autograd.grad((expected * weights).sum(), logits)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, reference)


def test_no_tokens_no_losses() -> None:
    assert token_loss.token_losses(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)).shape == (0,)
