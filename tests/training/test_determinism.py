"""A GPU's attention has a backward pass that repeats itself only where torch is to raise for kernels that cannot."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from gallop_ray.training.determinism import make_deterministic, repeat_backward


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def test_torch_is_strict_in_the_attention_s_own_step_of_the_way_back_alone() -> None:
    make_deterministic()
    seen: list[bool] = []

    def note(*_: object) -> None:
        seen.append(torch.is_deterministic_algorithms_warn_only_enabled())

    x = torch.randn(2, 3, 5, 8, requires_grad=True)
    attended = functional.scaled_dot_product_attention(x.sin(), x.cos(), x, is_causal=True)
    node = attended.grad_fn
    assert node is not None
    repeat_backward(attended.transpose(1, 2).contiguous())
    node.register_prehook(note)
    for before, _ in node.next_functions:
        if before is not None:
            before.register_prehook(note)
    attended.exp().sum().backward()
    assert seen[0] is False, "in the attention's node it raises"
    assert seen[1:]
    assert all(seen[1:]), "in those that follow it warns"
    assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_a_graph_without_fused_attention_is_left_alone() -> None:
    x = torch.randn(3, requires_grad=True)
    repeat_backward(x.exp().sum())
    repeat_backward(x.detach())
