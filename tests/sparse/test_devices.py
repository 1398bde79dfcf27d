"""Tensors of masks, values and labels that are not where the weights are: files and data are read into main memory.

The meta device stands for a GPU: like one it refuses operations on tensors of two devices.
"""

import pytest
import torch
from torch import nn

from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.mask import Mask
from gallop_ray.sparse.weights import in_any_order
from gallop_ray.tasks.encode import IGNORED, answer_loss, answer_positions


def a_model(device: str) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).to(device).requires_grad_(False)


def test_a_mask_that_was_read_from_a_file_moves_to_the_weights() -> None:
    model = a_model("meta")
    chosen = {"0": torch.tensor([1, 2, 20], dtype=torch.int32), "1": torch.tensor([0, 19], dtype=torch.int32)}
    delta = SparseDelta(model, find_candidates(model, ["0", "1"]), Mask(chosen))
    everywhere = (*delta.indices, *delta.touched, *(layer.indices for layer in delta.layers))
    assert {t.device.type for t in everywhere} == {"meta"}


def test_labels_stay_in_main_memory_and_give_the_same_losses() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 9, (3, 7))
    labels[0, :4] = labels[2] = IGNORED
    positions = answer_positions(labels)
    logits = torch.randn(3, len(positions), 9)
    there = answer_loss(logits.to("meta"), labels, positions)
    assert (there.device.type, there.shape) == ("meta", (3,))
    each = [
        nn.functional.cross_entropy(logits[row, : len(positions)], labels[row, positions + 1], ignore_index=IGNORED)
        for row in range(2)
    ]
    torch.testing.assert_close(answer_loss(logits, labels, positions), torch.stack([*each, torch.zeros(())]))


def test_writes_in_any_order_are_for_a_moment() -> None:
    """A deterministic write on a GPU sorts its places, which all differ here."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        with in_any_order():
            assert not torch.are_deterministic_algorithms_enabled()
        assert torch.are_deterministic_algorithms_enabled()
        with pytest.raises(IndexError), in_any_order():
            torch.zeros(2)[torch.tensor([5])] = 1.0
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        torch.use_deterministic_algorithms(False)
        with in_any_order():
            pass
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
