"""The kernel for chosen entries of dW equals the dense product: in Triton's interpreter, and on a GPU as compiled."""

import logging
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gallop_ray.sparse import weight_gradient
from gallop_ray.sparse.layers import SparseLinear

# (tokens, out, in), none of them round; the last is wider than a panel of columns.
SHAPES = [(1, 1, 1), (3, 5, 7), (65, 31, 129), (200, 67, 33), (130, 9, 2311)]
DENSITIES = [0.0001, 0.001, 0.01, 0.05]


def chosen(density: float, out: int, width: int, device: str, dtype: torch.dtype = torch.int32) -> Tensor:
    """Entries drawn at random in the first and last rows alone, so that most rows are empty; one entry at least."""
    draw = torch.Generator().manual_seed(out + width)
    rows = sorted({0, 1 % out, out - 1})
    allowed = torch.cat([torch.arange(row * width, (row + 1) * width) for row in rows])
    count = max(1, round(density * out * width))
    return allowed[torch.randperm(len(allowed), generator=draw)[:count]].sort().values.to(device, dtype)


def operands(tokens: int, out: int, width: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(tokens)
    x, grad = (torch.randn(tokens, n, generator=draw).to(dtype).to(device) for n in (width, out))
    return x, grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize(("tokens", "out", "width"), SHAPES)
def test_the_kernel_equals_the_dense_product(
    device: str, kernel: Any, tokens: int, out: int, width: int, density: float, dtype: torch.dtype
) -> None:
    x, grad = operands(tokens, out, width, dtype, device)
    indices = chosen(density, out, width, device)
    found = kernel.sampled_product(x, grad, indices)
    dense = (grad.double().t() @ x.double()).view(-1)[indices]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), dense, atol=2e-6 * tokens, rtol=1e-5)


def test_batches_of_sequences_wide_indices_and_no_entries(device: str, kernel: Any) -> None:
    x, grad = operands(70, 12, 40, torch.float32, device)
    indices = chosen(0.05, 12, 40, device, torch.int64)
    whole = kernel.sampled_product(x, grad, indices)
    assert torch.equal(kernel.sampled_product(x.view(2, 35, 40), grad.view(2, 35, 12), indices), whole)
    assert torch.equal(kernel.sampled_product(x[:, None], grad[:, None], indices), whole), "and repeats itself, bitwise"
    assert kernel.sampled_product(x, grad, indices[:0]).shape == (0,)


def test_the_order_of_the_entries_is_that_of_their_panels_and_changes_no_bit(
    device: str, kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, grad = operands(33, 6, 300, torch.bfloat16, device)
    indices = torch.arange(0, 1800, 11, device=device)
    whole = kernel.sampled_product(x, grad, indices)
    monkeypatch.setattr(kernel, "_PANEL", 64)
    other = indices.clone()  # its order is kept by tensor
    assert torch.equal(kernel.sampled_product(x, grad, other), whole)
    panels = (other % 300 // 64)[kernel._by_panel(other, 300)]
    assert bool((panels.diff() >= 0).all())
    assert int(panels.max()) == 4


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_layer_on_a_gpu_trains_by_the_kernel(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(400, 300, bias=False).to("cuda", dtype).requires_grad_(False)
    indices = torch.arange(0, 120_000, 601, device="cuda", dtype=torch.int32)
    layer = SparseLinear(linear, indices, linear.weight.view(-1)[indices].clone())
    x = torch.randn(2, 50, 400, device="cuda", dtype=dtype)
    assert weight_gradient.worth_choosing(linear.weight, indices)
    layer(x).square().sum().backward()
    by_kernel, layer.values.grad = layer.values.grad, None
    monkeypatch.setattr("gallop_ray.sparse.layers.worth_choosing", lambda *_: False)
    layer(x).square().sum().backward()
    torch.testing.assert_close(by_kernel, layer.values.grad, rtol=2e-2, atol=1e-2 * float(by_kernel.abs().max()))


def test_a_kernel_that_is_wrong_or_does_not_compile_is_not_used(
    device: str, kernel: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    works, where = weight_gradient._kernel_works.__wrapped__, (torch.device(device), torch.float32)
    monkeypatch.setattr(weight_gradient, "chosen_gradient", kernel.sampled_product)
    assert works(*where)
    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(weight_gradient, "chosen_gradient", lambda x, grad, indices: 1.5 * x.new_ones(len(indices)))
        assert not works(*where)

        def uncompiled(*_: Any) -> Tensor:
            raise RuntimeError("no C compiler")

        monkeypatch.setattr(weight_gradient, "chosen_gradient", uncompiled)
        assert not works(*where)
    assert "is off by" in caplog.messages[0]
    assert "does not run here: no C compiler" in caplog.messages[1]


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gallop_ray.sparse.sampled_product import _sum_entries

for element, place in (("bf16", "i32"), ("fp32", "i64")):
    types = [f"*{element}", f"*{element}", f"*{place}", "*i32", "*fp32", "i32", "i32", "i32", "constexpr", "constexpr"]
    signature = dict(zip(_sum_entries.arg_names, types, strict=True))
    source = ASTSource(_sum_entries, signature, {(8,): 32, (9,): 64})
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
"""


@pytest.mark.parametrize("kernel", ["compiled"])
def test_it_compiles_for_an_h100_without_one(device: str, kernel: str) -> None:
    """In a process of its own: interpreted, Triton compiles nothing. It brings the assembler along."""
    quiet = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    made = subprocess.run([sys.executable, "-c", COMPILE], env=quiet, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
