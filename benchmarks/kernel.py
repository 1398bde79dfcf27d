"""The chosen entries of dW as a run computes them on this machine, against all of dW and a choice from it."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.models import device, number_type
from gallop_ray.sparse.weight_gradient import chosen_gradient, weight_gradient, worth_choosing

# Llama-3-8B's projections (out, in), and 4 x 1024 tokens.
SHAPES, TOKENS = ((1024, 4096), (4096, 4096), (14336, 4096), (4096, 14336)), 4096
QUICK_SHAPES, QUICK_TOKENS = ((48, 64),), 100
DENSITIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.03)
ROUNDS, WARM_UP = 7, 3


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each shape and density."""
    dtype = getattr(torch, number_type())
    for out, width in QUICK_SHAPES if quick else SHAPES:
        tokens = QUICK_TOKENS if quick else TOKENS
        torch.manual_seed(0)
        x, grad = (torch.randn(tokens, n, device=device(), dtype=dtype) for n in (width, out))
        weight = torch.empty(out, width, device=device(), dtype=dtype)
        for density in DENSITIES:
            drawn = torch.randint(out * width, (max(1, round(density * out * width)),), device=device())
            yield _row(x, grad, weight, drawn.unique().to(torch.int32), density)


def _row(x: Tensor, grad: Tensor, weight: Tensor, indices: Tensor, density: float) -> dict[str, Any]:
    label = {"shape": list(weight.shape), "tokens": len(x), "dtype": str(x.dtype), "density": density}
    label["other_seconds"] = whole = seconds_of(lambda: weight_gradient(x, grad).view(-1)[indices])
    try:
        chosen = seconds_of(lambda: chosen_gradient(x, grad, indices))
        exact = (grad.double().t() @ x.double()).view(-1)[indices]
        error = float((chosen_gradient(x, grad, indices) - exact).abs().max())
    except Exception as failure:  # no Triton, or no compiler for it: told in the row, and the others are measured
        return _said({**label, "seconds": None, "skipped": f"{type(failure).__name__}: {failure}"})
    used = worth_choosing(weight, indices)
    return _said({**label, "seconds": chosen, "time_ratio": round(chosen / whole, 4), "error": error, "used": used})


def seconds_of(work: Callable[[], object], rounds: int = ROUNDS, warm_up: int = WARM_UP) -> float:
    """The median time of a repetition, in seconds."""
    taken = []
    for _ in range(warm_up + rounds):
        wait()
        begun = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[warm_up:])


def wait() -> None:
    """Until the GPU, where there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _said(row: dict[str, Any]) -> dict[str, Any]:
    print(row, flush=True)
    return row
