"""What the sparse layer keeps for the way back, and what it hands on."""

import pytest
import torch
from torch import Tensor, nn

from gallop_ray.sparse.layers import SparseLinear, score_layer, sparse_layer
from gallop_ray.sparse.weight_gradient import chosen_gradient, weight_gradient, worth_choosing


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


def test_whoever_is_handed_dw_may_change_it() -> None:
    """Over several ranks it becomes the sum of all in place, and the values have their own gradient still."""
    for inner in (nn.Linear(40, 30), nn.Embedding(30, 40)):
        x = torch.randn(8, 40) if isinstance(inner, nn.Linear) else torch.arange(8)
        (dense,) = torch.autograd.grad(inner(x).square().sum(), inner.weight)
        sparse = sparse_layer(
            inner.requires_grad_(False), torch.arange(50), inner.weight.detach().view(-1)[:50].clone()
        )
        sparse.take = lambda gradient: gradient.zero_()
        sparse(x).square().sum().backward()
        torch.testing.assert_close(sparse.values.grad, dense.view(-1)[:50])


class Router(nn.Linear):
    """A kind of linear layer that computes more than x W^T + b."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sigmoid()


@pytest.mark.parametrize(
    "inner", [nn.Embedding(30, 8, padding_idx=0), nn.LayerNorm(8), nn.RMSNorm(8), Router(8, 5)], ids=repr
)
def test_other_layers_compute_what_they_did_and_hand_on_the_gradient_of_their_weight(inner: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 30, (4, 5), generator=generator)
    x = x if isinstance(inner, nn.Embedding) else torch.randn(4, 8, generator=generator)
    weight = inner.weight
    grad = torch.randn(inner(x).shape, generator=generator)
    (dense,) = torch.autograd.grad(inner(x), weight, grad)
    inner.requires_grad_(False)
    indices = torch.tensor([1, 3, 7])
    sparse, taken = sparse_layer(inner, indices, weight.view(-1)[indices].clone()), list[Tensor]()
    for layer in (sparse, score_layer(inner, taken.append)):
        out = layer(x)
        assert torch.equal(out, inner(x))
        out.backward(grad)
    torch.testing.assert_close(sparse.values.grad, dense.view(-1)[indices])
    torch.testing.assert_close(taken, [dense])
    assert {name for name, _ in sparse.named_parameters()} == {"values", *dict(inner.named_parameters())}
    assert weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_the_chosen_entries_by_themselves_are_those_of_the_whole_product(
    dtype: torch.dtype, index: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, 9, 40, generator=generator).to(dtype), torch.randn(2, 9, 30, generator=generator).to(dtype)
    exact = weight_gradient(x.double(), grad.double())
    first, last, rows = torch.tensor([0]), torch.tensor([1199]), torch.arange(400, 560)
    for chosen in (first, last, torch.cat([first, rows, last]), torch.randperm(1200, generator=generator)[:30]):
        indices = chosen.sort().values.to(index)
        found = chosen_gradient(x, grad, indices)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact.view(-1)[indices], atol=1e-5, rtol=1e-5)
        assert torch.equal(found, chosen_gradient(x, grad, indices))


def test_many_entries_are_picked_from_the_whole_product() -> None:
    for k, alone in ((10, True), (600, False)):
        linear, _, _ = a_layer()
        indices = torch.arange(k)
        assert worth_choosing(linear.weight, indices) == alone
        sparse, x = SparseLinear(linear, indices, linear.weight.view(-1)[:k].clone()), torch.randn(8, 40)
        sparse(x).sum().backward()
        dense = weight_gradient(x, torch.ones(8, 30)).view(-1)[:k]
        torch.testing.assert_close(sparse.values.grad, dense, atol=1e-5, rtol=1e-5)
