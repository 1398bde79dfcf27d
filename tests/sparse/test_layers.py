"""What the sparse layer keeps for the way back, and what it hands on."""

import torch
from torch import Tensor, nn

from gallop_ray.sparse.layers import SparseLinear


def a_layer(bias: bool = True) -> tuple[nn.Linear, SparseLinear, Tensor]:
    torch.manual_seed(0)
    linear = nn.Linear(40, 30, bias=bias).requires_grad_(False)
    indices = torch.randperm(1200)[:50].sort().values
    return linear, SparseLinear(linear, indices, linear.weight.view(-1)[indices].clone()), indices


def test_nothing_as_large_as_the_weight_is_kept_until_backward() -> None:
    linear, sparse, _ = a_layer()
    x, kept = torch.randn(8, 40, requires_grad=True), dict[int, int]()

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sparse(x)
    kept.pop(linear.weight.untyped_storage().data_ptr())
    assert sum(kept.values()) == x.untyped_storage().nbytes()


def test_the_gradient_is_the_chosen_entries_of_the_dense_one() -> None:
    for bias in (True, False):
        linear, sparse, indices = a_layer(bias)
        x, grad = torch.randn(2, 4, 40, requires_grad=True), torch.randn(2, 4, 30)
        taken: list[Tensor] = []
        sparse.take = taken.append
        out = sparse(x)
        assert torch.equal(out, linear(x))
        out.backward(grad)
        linear.weight.requires_grad_(True)
        dense_x, dense_w = torch.autograd.grad(linear(x), (x, linear.weight), grad)
        torch.testing.assert_close(sparse.values.grad, dense_w.view(-1)[indices])
        torch.testing.assert_close(taken[0], dense_w)
        torch.testing.assert_close(x.grad, dense_x)
        assert linear.weight.grad is None


def test_a_pull_is_the_gradient_of_an_l2_penalty_on_the_delta() -> None:
    linear, sparse, indices = a_layer()
    base = linear.weight.view(-1)[indices] - torch.linspace(-1, 1, 50)
    sparse.pull = (0.3, base)
    x = torch.randn(8, 40)
    sparse(x).sum().backward()
    pulled, sparse.values.grad, sparse.pull = sparse.values.grad, None, None
    sparse(x).sum().backward()
    torch.testing.assert_close(pulled - sparse.values.grad, 0.3 * torch.linspace(-1, 1, 50))
