"""Packed examples: which share a row, the same losses and gradients as without it, and models that cannot."""

import random

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from gallop_ray.spec.training import TrainingSpec
from gallop_ray.tasks.encode import IGNORED, Encoded, answer_loss, answer_positions, collate
from gallop_ray.tasks.packing import Packed, pack, packed_losses, portions
from gallop_ray.training.batches import micro_batches, micro_steps
from gallop_ray.training.packing_check import refuse_packing

SMALL = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FAMILIES = {
    "llama": {"intermediate_size": 64, "num_key_value_heads": 2},
    "qwen2": {"intermediate_size": 64, "num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 6},
    "gpt2": {"n_positions": 128},
}
FAMILIES["qwen2"] |= {"max_window_layers": 0}


def model_of(family: str, **fields: object):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SMALL, **FAMILIES.get(family, {}), **fields})
    return AutoModelForCausalLM.from_config(config).eval()


def examples(count: int, longest: int = 40) -> list[Encoded]:
    """Of all lengths, some with two answers, some learnt from the first token on."""
    draw, made = random.Random(1), []
    for i in range(count):
        ids = [draw.randrange(3, 96) for _ in range(draw.randrange(2, longest))]
        labels = list(ids) if i % 5 == 0 else [IGNORED] * (len(ids) // 2) + ids[len(ids) // 2 :]
        labels[: 2 * (i % 3)] = ids[: 2 * (i % 3)] if len(ids) > 4 else labels[: 2 * (i % 3)]
        made.append(Encoded(ids, labels[: len(ids)]))
    return made


def unpacked(model, one: Encoded) -> Tensor:
    inputs = collate([one], 0)
    labels = inputs.pop("labels")
    positions = answer_positions(labels)
    return answer_loss(model(**inputs, logits_to_keep=positions).logits, labels, positions)[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_packed_example_has_the_loss_and_the_gradient_that_it_has_alone(family, attention):
    model = model_of(family, attn_implementation=attention)
    batch = examples(16)
    for part in portions(batch, 64, 2):
        assert max(map(len, part.rows)) > 1
        losses = packed_losses(model, part, 0, torch.device("cpu"))
        alone = torch.stack([unpacked(model, one) for one in part])
        torch.testing.assert_close(losses, alone, rtol=1e-5, atol=1e-5)
        weights = list(model.parameters())
        found = torch.autograd.grad(losses.mean(), weights, allow_unused=True)
        expected = torch.autograd.grad(alone.mean(), weights, allow_unused=True)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_models_that_keep_examples_apart_are_not_refused(family, dtype):
    refuse_packing(model_of(family).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_that_does_not_keep_examples_apart_is_refused(dtype):
    with pytest.raises(ValueError, match=r"that share a row; set training.packing to false"):
        refuse_packing(model_of("mamba", state_size=8).to(dtype))


def test_positions_that_are_counted_by_the_model_itself_are_found():
    model = model_of("gpt2")
    forward = model.forward
    model.forward = lambda position_ids, **inputs: forward(**inputs)
    with pytest.raises(ValueError, match="does not keep examples apart"):
        refuse_packing(model)


def test_rows_are_full_and_hold_every_example_once():
    draw = random.Random(2)
    for _ in range(50):
        lengths = [draw.randrange(1, 120) for _ in range(draw.randrange(1, 60))]
        bins = pack(lengths, 100)
        assert sorted(i for each in bins for i in each) == list(range(len(lengths)))
        sums = [sum(lengths[i] for i in each) for each in bins]
        assert all(total <= 100 or len(each) == 1 for total, each in zip(sums, bins, strict=True))
        shortest = sorted(sums)[:2]
        assert len(bins) < 2 or sum(shortest) > 100, "no two rows fit into one"


def test_a_long_row_takes_the_example_that_fills_it():
    assert [sorted([60, 50, 45, 40, 5][i] for i in each) for each in pack([60, 50, 45, 40, 5], 100)] == [
        [40, 60],
        [5, 45, 50],
    ]


@pytest.mark.parametrize(("batch", "micro"), [(8, 1), (8, 2), (32, 4), (4, 4)])
def test_a_batch_has_each_example_once_in_as_many_micro_batches_at_every_step(batch, micro):
    training = TrainingSpec(batch_size=batch, micro_batch_size=micro, max_length=64, packing=True)
    data = examples(50)
    count = micro_steps(data, training, 3, 20)
    assert count <= batch // micro
    for start in range(0, 48 - batch, 8):
        drawn = data[start : start + batch]
        parts = list(micro_batches(drawn, training, max(count, 1)))
        assert len(parts) == count
        assert all(isinstance(part, Packed) and len(part) for part in parts)
        assert sorted(map(id, drawn)) == sorted(id(one) for part in parts for one in part)
        assert all(sum(len(one.input_ids) for one in row) <= 64 for part in parts for row in part.rows)
