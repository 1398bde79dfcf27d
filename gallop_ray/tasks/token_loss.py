"""Cross-entropy of tokens without float32 copies of the logits, which are the largest tensor of a step."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_CHUNK = 1 << 20  # logits that are float32 at a time
_CHUNK_ON_GPU = 1 << 26  # so few would take longer to start there than to compute


def _in_float32(logits: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The rows in turn, float32, in a buffer that is used again: fresh memory would cost more than the arithmetic."""
    chunk = _CHUNK if logits.device.type == "cpu" else _CHUNK_ON_GPU
    rows = max(1, min(len(logits), chunk // logits.shape[-1]))
    buffer = torch.empty(rows, logits.shape[-1], device=logits.device)
    for start in range(0, len(logits), rows):
        part = logits[start : start + rows]
        yield slice(start, start + len(part)), buffer[: len(part)].copy_(part)


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        totals = torch.empty(len(logits), device=logits.device)
        for rows, part in _in_float32(logits):
            top = part.amax(-1, keepdim=True)
            totals[rows] = part.sub_(top).exp_().sum(-1).log_().add_(top[:, 0])
        ctx.save_for_backward(logits, targets, totals)
        return totals - logits.gather(-1, targets[:, None]).view(-1).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, totals = ctx.saved_tensors
        answer = torch.empty_like(logits)
        for rows, part in _in_float32(logits):
            part.sub_(totals[rows, None]).exp_()
            part[torch.arange(len(part), device=part.device), targets[rows]] -= 1
            answer[rows] = part.mul_(grads[0][rows, None])
        return answer, None


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[target] of each row, worked out in float32: logits (n, V), targets (n,) to (n,) float32."""
    if not len(logits):
        return logits.new_zeros(0, dtype=torch.float32)
    return _TokenLosses.apply(logits, targets)  # type: ignore[no-any-return,no-untyped-call]
