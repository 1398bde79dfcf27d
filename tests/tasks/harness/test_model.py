"""The loaded model gives lm-evaluation-harness what its own HFLM gives it."""

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import LlamaForCausalLM

from gallop_ray.tasks.harness.model import LoadedLM
from gallop_ray.training.pocket import pocket_config, pocket_tokenizer

pytestmark = pytest.mark.slow

CONTEXTS = ["", "max 3 7 2 9", "Question: which is larger, 3 or 7?\nAnswer:", "min 1 2 " * 40, "max ", "é 日本"]
CONTINUATIONS = [" 3", " 7", " 9 and 12", " no", "\n\n", " 日本語"]


def untrained(positions: int = 512):
    torch.manual_seed(1)
    config = pocket_config()
    config.max_position_embeddings, config.initializer_range = positions, 0.2
    return LlamaForCausalLM(config).eval(), pocket_tokenizer()


def likelihoods():
    pairs = [(context, text) for context in CONTEXTS for text in CONTINUATIONS]
    return [Instance("loglikelihood", {}, pair, 0, ("a", place, 1)) for place, pair in enumerate(pairs)]


def rolling():
    texts = ["max 3 7", "Question: which is larger?\n" * 12, " ".join(map(str, range(90)))]
    return [Instance("loglikelihood_rolling", {}, (text,), 0, ("a", place, 1)) for place, text in enumerate(texts)]


def generations():
    kinds = [
        {"until": ["\n\n"], "max_gen_toks": 12},
        {"until": [" 3", "9"], "max_gen_toks": 24, "do_sample": False, "temperature": 0.0},
        {"until": "a", "max_new_tokens": 24},
        {"until": [], "max_gen_toks": 5},
    ]
    asked = [(context, kind) for kind in kinds for context in CONTEXTS[1:]]
    return [Instance("generate_until", {}, each, 0, ("a", place, 1)) for place, each in enumerate(asked)]


def close(found, expected):
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    torch.testing.assert_close([value for value, _ in found], [value for value, _ in expected], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", [512, 48])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_likelihoods_are_those_of_the_harness_own_model(positions, batch_size):
    model, tokenizer = untrained(positions)
    theirs, ours = HFLM(model, tokenizer=tokenizer, batch_size=batch_size), LoadedLM(model, tokenizer, batch_size)
    expected = theirs.loglikelihood(likelihoods(), disable_tqdm=True)
    close(ours.loglikelihood(likelihoods()), expected)
    assert len({round(value, 3) for value, _ in expected}) > 20
    said = model(torch.tensor([tokenizer("max 3")["input_ids"]])).logits[0, -1].argmax()
    greedy = Instance("loglikelihood", {}, ("max 3", tokenizer.decode(said)), 0)
    assert ours.loglikelihood([greedy])[0][1] is theirs.loglikelihood([greedy])[0][1] is True


@pytest.mark.parametrize("positions", [512, 48])
def test_likelihoods_of_whole_texts_are_those_of_the_harness_own_model(positions):
    model, tokenizer = untrained(positions)
    expected = HFLM(model, tokenizer=tokenizer, batch_size=4).loglikelihood_rolling(rolling(), disable_tqdm=True)
    found = LoadedLM(model, tokenizer, 4).loglikelihood_rolling(rolling())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)  # windows of like length go together here


@pytest.mark.parametrize("batch_size", [1, 8])
def test_generations_are_those_of_the_harness_own_model(batch_size):
    model, tokenizer = untrained()
    expected = HFLM(model, tokenizer=tokenizer, batch_size=batch_size).generate_until(generations(), disable_tqdm=True)
    assert LoadedLM(model, tokenizer, batch_size).generate_until(generations()) == expected
    assert len(set(expected)) > 8


def test_samples_are_refused():
    model, tokenizer = untrained()
    asked = Instance("generate_until", {}, ("max", {"do_sample": True, "temperature": 0.7}), 0, ("poems", 0, 1))
    with pytest.raises(ValueError, match=r"task poems draws samples .* do_sample: false"):
        LoadedLM(model, tokenizer, 1).generate_until([asked])


@pytest.mark.parametrize(
    ("pair", "said"),
    [(("max", ""), "an answer is empty"), (("max", " 3" * 60), "has 60 tokens, and the model takes 48")],
)
def test_answers_that_no_window_can_hold_are_refused(pair, said):
    model, tokenizer = untrained(48)
    with pytest.raises(ValueError, match=said):
        LoadedLM(model, tokenizer, 1).loglikelihood([Instance("loglikelihood", {}, pair, 0)])


def everything():
    model, tokenizer = untrained()
    lm = LoadedLM(model, tokenizer, 4)
    return lm.loglikelihood(likelihoods()), lm.loglikelihood_rolling(rolling()), lm.generate_until(generations())


def test_every_rank_has_the_results_of_one_rank(ranks):
    likelihood, whole, generated = everything()
    for found in ranks(2)(everything):
        close(found[0], likelihood)
        torch.testing.assert_close(found[1], whole)
        assert found[2] == generated
