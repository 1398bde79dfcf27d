"""SM3's accumulators of a few trained entries equal loops over them, whichever way their gradients are computed."""

import pytest
import torch

from gallop_ray.sparse import layers
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.layers import SparseLinear
from gallop_ray.sparse.sm3 import Accumulators, take_in
from gallop_ray.testing.model import EVERYWHERE
from tests.training import tiny


def test_steps_equal_loops_in_float64() -> None:
    generator = torch.Generator().manual_seed(1)
    rows, columns = torch.zeros(4), torch.zeros(5)
    slow_rows, slow_columns = [0.0] * 4, [0.0] * 5
    for step in range(6):
        indices = torch.tensor([0, 3, 7, 8, 19] if step < 3 else [1, 3, 5, 8, 18])
        gradient = torch.randn(5, generator=generator)
        take_in(rows, columns, indices, gradient)
        found = [(i // 5, i % 5, float(g) ** 2) for i, g in zip(indices.tolist(), gradient.double(), strict=True)]
        bounds = [(r, c, min(slow_rows[r], slow_columns[c]) + square) for r, c, square in found]
        for r, c, bound in bounds:
            slow_rows[r], slow_columns[c] = max(slow_rows[r], bound), max(slow_columns[c], bound)
    torch.testing.assert_close(rows, torch.tensor(slow_rows))
    torch.testing.assert_close(columns, torch.tensor(slow_columns))
    assert slow_rows[2] == 0, "a row with no trained entry has seen nothing"


def test_a_step_is_the_sum_of_its_passes_of_matrices_and_of_norms() -> None:
    places = find_candidates(tiny.model(), EVERYWHERE)
    indices = [torch.tensor([1, 3]) for _ in places]
    whole, halves = Accumulators(places), Accumulators(places)
    for m in range(1, len(places)):  # the first has no gradient, as an expert without tokens
        whole.add(m, torch.tensor([2.0, -4.0]))
        halves.add(m, torch.tensor([1.0, -1.0]))
        halves.add(m, torch.tensor([1.0, -3.0]))
    whole.end_step(indices)
    halves.end_step(indices)
    again = Accumulators(places)
    again.write(halves.read())
    for m, place in enumerate(places):
        assert all(torch.equal(a, b) for a, b in zip(whole.of(place.name), again.of(place.name), strict=True))
        rows, columns = whole.of(place.name)
        assert rows.numel() * columns.numel() == place.numel
        assert (float(rows.max()), columns[3].item()) == ((16, 16) if m else (0, 0))


@pytest.mark.parametrize("sampled", [False, True])
def test_the_chosen_gradients_are_passed_on_by_either_kernel(sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "worth_choosing", lambda *_: sampled)
    inner = torch.nn.Linear(3, 4, bias=False).requires_grad_(False)
    indices, taken = torch.tensor([0, 5, 11]), list[torch.Tensor]()
    layer = SparseLinear(inner, indices, inner.weight.view(-1)[indices])
    layer.take_chosen = taken.append
    layer(torch.randn(2, 3, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert layer.values.grad is not None
    torch.testing.assert_close(taken.pop(), layer.values.grad)
    layer.release()
    assert layer.take_chosen is None
