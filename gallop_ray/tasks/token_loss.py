"""Cross-entropy of tokens without float32 copies of the logits, which are the largest tensor of a step."""

from typing import Any

import torch
from torch import Tensor

_CHUNK = 1 << 22  # logits that are float32 at a time


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        rows = max(1, _CHUNK // logits.shape[-1])
        totals = torch.cat([part.float().logsumexp(-1) for part in logits.split(rows)])
        ctx.save_for_backward(logits, targets, totals)
        return totals - logits.gather(-1, targets[:, None]).view(-1).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, totals = ctx.saved_tensors
        rows = max(1, _CHUNK // logits.shape[-1])
        answer = torch.empty_like(logits)
        for part, out, target, total, grad in zip(
            *(tensor.split(rows) for tensor in (logits, answer, targets, totals, grads[0])), strict=True
        ):
            slope = part.float().sub_(total[:, None]).exp_()
            slope[torch.arange(len(slope), device=slope.device), target] -= 1
            out.copy_(slope.mul_(grad[:, None]))
        return answer, None


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[target] of each row, worked out in float32: logits (n, V), targets (n,) to (n,) float32."""
    if not len(logits):
        return logits.new_zeros(0, dtype=torch.float32)
    return _TokenLosses.apply(logits, targets)  # type: ignore[no-any-return,no-untyped-call]
