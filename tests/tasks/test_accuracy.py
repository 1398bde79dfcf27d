import itertools
from dataclasses import replace

import peft
import pytest
import torch
from transformers import (
    BartConfig,
    BartForCausalLM,
    GenerationConfig,
    LlamaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from gallop_ray.tasks.accuracy import generation_correct
from gallop_ray.tasks.answers import parse_answer
from gallop_ray.tasks.choices import by_likelihood
from gallop_ray.tasks.encode import encode_options
from gallop_ray.tasks.examples import Example, reasoned
from gallop_ray.tasks.generated import generated_examples
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.training.pocket import pocket_config, pocket_tokenizer

SETTINGS = EvaluationSettings("{instruction}\n{input}\n", max_length=64, batch_size=4, max_new_tokens=4)


def untrained():
    torch.manual_seed(1)
    return LlamaForCausalLM(pocket_config()), pocket_tokenizer()


def mixed_examples():
    """Options that differ in one last token, in several tokens, and in number of tokens, with prompts of any length."""
    digits = generated_examples("range", "test", 0)[:9]
    phrases = [
        Example(one.instruction, "x" * i, ("it is 3", "it is 7", "no"), ("3", "7", "no"), i % 3)
        for i, one in enumerate(digits)
    ]
    nested = [Example(one.instruction, "", ("1", "12"), ("1", "12"), i % 2) for i, one in enumerate(digits)]
    return digits + phrases + nested


def likelihood_correct(model, tokenizer, examples, settings):
    return by_likelihood(model, tokenizer, examples, settings).ways["likelihood"]


def slow_likelihood_correct(model, tokenizer, examples):
    results = []
    for example in examples:
        encoded = encode_options(example, tokenizer, SETTINGS.prompt, SETTINGS.max_length)
        scores = []
        last_alone = len({(len(o), *o[:-1]) for o in encoded.options}) == 1
        for option in encoded.options if last_alone else [[*o, tokenizer.eos_token_id] for o in encoded.options]:
            with torch.no_grad():
                logits = model(torch.tensor([encoded.prompt + option])).logits[0].log_softmax(-1)
            start = len(encoded.prompt) - 1
            scores.append(sum(logits[start + i, token].item() for i, token in enumerate(option)))
        others = [score for i, score in enumerate(scores) if i != example.label]
        results.append(scores[example.label] > max(others))
    return results


@pytest.mark.slow
def test_likelihood_equals_a_slow_reference():
    model, tokenizer = untrained()
    examples = mixed_examples()
    expected = slow_likelihood_correct(model, tokenizer, examples)
    assert len(set(expected)) == 2
    for batch_size in (1, 4, 100):
        settings = EvaluationSettings(SETTINGS.prompt, SETTINGS.max_length, batch_size)
        assert likelihood_correct(model, tokenizer, examples, settings) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda ids: BartForCausalLM(BartConfig(d_model=32, decoder_layers=2, decoder_ffn_dim=64, init_std=0.5, **ids)),
        lambda ids: RwkvForCausalLM(RwkvConfig(hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, **ids)),
    ],
    ids=["positions from the first column", "padding in the state"],
)
def test_what_a_model_says_of_a_text_does_not_depend_on_the_other_texts_of_a_batch(make):
    torch.manual_seed(3)
    tokenizer = pocket_tokenizer()
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0}
    model, examples = make(ids).eval(), mixed_examples()
    one_by_one, together = replace(SETTINGS, batch_size=1), replace(SETTINGS, batch_size=100)
    expected = slow_likelihood_correct(model, tokenizer, examples)
    assert len(set(expected)) == 2
    assert likelihood_correct(model, tokenizer, examples, together) == expected
    if isinstance(model, BartForCausalLM):  # RWKV's own cached decoding of several rows is not that of one
        generated = generation_correct(model, tokenizer, examples, one_by_one)
        assert generation_correct(model, tokenizer, examples, together) == generated


@pytest.mark.parametrize("said", ["1", "12", "123"])
def test_an_option_that_others_continue_can_win_and_so_can_they(said):
    """Without the end, 1 would be the likeliest for every model."""
    model, tokenizer = untrained()
    tokens = [*tokenizer(said, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]

    def say(module, args, kwargs, output):
        before = kwargs["input_ids"][:, -output.logits.shape[1] :]
        output.logits.zero_()
        for last, following in itertools.pairwise(tokens):
            output.logits[..., following][before == last] = 20.0

    model.register_forward_hook(say, with_kwargs=True)
    keys = ("1", "12", "123")
    examples = [Example("max 3 7", "", keys, keys, label) for label in range(3)]
    assert likelihood_correct(model, tokenizer, examples, SETTINGS) == [key == said for key in keys]


def test_a_tie_is_not_correct():
    model, tokenizer = untrained()
    torch.nn.init.zeros_(model.lm_head.weight)  # every token is as likely as any other
    tied = Example("max 3 7", "", ("7", "3"), ("7", "3"), 0)
    assert likelihood_correct(model, tokenizer, [tied], SETTINGS) == [False]


def test_options_that_differ_in_one_last_token_take_one_forward_per_batch():
    model, tokenizer = untrained()
    calls = []
    model.register_forward_hook(lambda module, args, output: calls.append(output.logits.shape))
    likelihood_correct(model, tokenizer, generated_examples("range", "test", 0)[:8], SETTINGS)
    assert calls == [(4, 2, pocket_config().vocab_size)] * 2, "what decides, and the end of the right one"


def test_generation_equals_greedy_decoding_one_by_one():
    model, tokenizer = untrained()
    examples = mixed_examples()[:12]
    found = generation_correct(model, tokenizer, examples, SETTINGS)
    for example, output, correct in zip(examples, found.outputs, found.correct, strict=True):
        ids = encode_options(example, tokenizer, SETTINGS.prompt, SETTINGS.max_length).prompt
        said: list[int] = []
        while len(said) < SETTINGS.max_new_tokens and tokenizer.eos_token_id not in said:
            with torch.no_grad():
                said.append(int(model(torch.tensor([ids + said])).logits[0, -1].argmax()))
        assert output == tokenizer.decode(said, skip_special_tokens=True)
        assert correct == (parse_answer(output, example.keys) == example.label)


@pytest.mark.slow
@pytest.mark.parametrize(
    "own",
    [
        {"min_new_tokens": 4},
        {"min_length": 40},
        {"stop_strings": ["Ġ"]},
        {"num_return_sequences": 3, "num_beams": 3},
        {"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "no_repeat_ngram_size": 1},
        {"renormalize_logits": True, "forced_eos_token_id": 9, "exponential_decay_length_penalty": [1, 9.0]},
        {"max_time": 1e-9},
        {"return_dict_in_generate": True, "output_scores": True},
        {"prompt_lookup_num_tokens": 2},
        {"guidance_scale": 3.0},
    ],
    ids=lambda own: next(iter(own)),
)
@pytest.mark.parametrize("adapter", [False, True])
def test_of_the_models_own_generation_settings_only_the_end_ids_count(own, adapter):
    model, tokenizer = untrained()
    model.lm_head.weight.data[tokenizer.eos_token_id] += 0.05
    examples = mixed_examples()[:6]
    plain = generation_correct(model, tokenizer, examples, SETTINGS)
    suppressed = sorted({one for text in plain.outputs for one in tokenizer(text)["input_ids"]})
    model.generation_config = GenerationConfig(suppress_tokens=suppressed, bad_words_ids=[[suppressed[0]]], **own)
    asked = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM")) if adapter else model
    assert generation_correct(asked, tokenizer, examples, SETTINGS) == plain
    assert model.generation_config.suppress_tokens == suppressed, "put back"


def test_the_end_ids_of_the_models_generation_settings_end_an_answer():
    model, tokenizer = untrained()
    (example,) = mixed_examples()[:1]
    (text,) = generation_correct(model, tokenizer, [example], SETTINGS).outputs
    model.generation_config = GenerationConfig(eos_token_id=tokenizer(text)["input_ids"][:1])
    (ended,) = generation_correct(model, tokenizer, [example], SETTINGS).outputs
    assert len(tokenizer(ended)["input_ids"]) == 1


@pytest.mark.parametrize("marker", ["<|eot_id|>", "END"], ids=["a special token", "text"])
def test_a_chats_answer_ends_at_the_templates_marker_whatever_the_models_settings_name(marker):
    model, tokenizer = untrained()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|eot_id|>"]})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}" + marker + "{% endfor %}"
    answer = "seven" + marker + " and more"
    said = []

    def say(module, args, output):
        said.append(0)
        output.logits[..., tokenizer(answer)["input_ids"][len(said) - 1]] = 1e9

    model.register_forward_hook(say)

    def generated(prompt):
        said.clear()
        length = len(tokenizer(answer)["input_ids"])
        settings = replace(SETTINGS, prompt=prompt, max_reasoning_tokens=length)
        return generation_correct(model, tokenizer, [reasoned("max 3 7", "", "7", 7.0)], settings).outputs, len(said)

    whole = tokenizer.decode(tokenizer(answer)["input_ids"], skip_special_tokens=True)
    assert generated("chat") == (["seven"], len(tokenizer("seven" + marker)["input_ids"]))
    assert generated("{instruction}:")[0] == [whole], "no chat has no such end"


def test_generation_ends_when_all_rows_have_ended():
    model, tokenizer = untrained()
    calls = []

    def say_the_end(module, args, output):
        calls.append(len(output.logits))
        output.logits[..., tokenizer.eos_token_id] = 1e9

    model.register_forward_hook(say_the_end)
    found = generation_correct(model, tokenizer, generated_examples("range", "test", 0)[:8], SETTINGS)
    assert (found.outputs, found.read, found.correct) == ([""] * 8, [None] * 8, [False] * 8)
    assert calls.count(SETTINGS.batch_size) == 2, "the others only try how the model can be run"


def test_what_an_example_without_options_is_asked_does_not_depend_on_its_answer():
    model, tokenizer = untrained()
    model.lm_head.weight.data[tokenizer.eos_token_id] = 0  # it goes on to the last token
    short, long = (reasoned("max 3 7 and some more " * 3, "", "7" * count, 7.0) for count in (1, 60))
    settings = replace(SETTINGS, max_reasoning_tokens=9)
    found = generation_correct(model, tokenizer, [short, long], settings)
    assert found.outputs[0] == found.outputs[1]
    assert len(tokenizer(found.outputs[0])["input_ids"]) > SETTINGS.max_new_tokens


def test_the_training_mode_is_put_back():
    model, tokenizer = untrained()
    model.train()
    likelihood_correct(model, tokenizer, mixed_examples()[:1], SETTINGS)
    assert model.training


def hold(model, rows):
    """From now on a forward pass on more rows asks for more memory than there is."""

    def allocate(module, args, kwargs):
        if len(kwargs["input_ids"]) > rows:
            torch.empty(1 << 60, dtype=torch.uint8)

    return model.register_forward_pre_hook(allocate, with_kwargs=True)


@pytest.mark.slow
def test_batches_that_are_too_large_for_the_memory_are_halved():
    model, tokenizer = untrained()
    examples, settings = mixed_examples(), replace(SETTINGS, batch_size=16)
    expected = [measure(model, tokenizer, examples, settings) for measure in (likelihood_correct, generation_correct)]
    limit = hold(model, 3)
    found = [measure(model, tokenizer, examples, settings) for measure in (likelihood_correct, generation_correct)]
    assert found == expected
    limit.remove()
    hold(model, 0)
    with pytest.raises(RuntimeError, match="memory"):
        likelihood_correct(model, tokenizer, examples, settings)


def evaluate_on_rank(examples):
    """Both results, and how many forward calls this rank made for the likelihoods."""
    model, tokenizer = untrained()
    calls = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    likelihood = likelihood_correct(model, tokenizer, examples, SETTINGS)
    hook.remove()
    return likelihood, generation_correct(model, tokenizer, examples, SETTINGS), len(calls)


@pytest.mark.parametrize("count", [1, 27])
def test_every_rank_has_the_results_of_one_rank_after_as_many_forwards(ranks, count):
    examples = mixed_examples()[:count]
    likelihood, generated, calls = evaluate_on_rank(examples)
    tries = 4 if count > 1 else 0  # on every rank, of one text alone and padded, alone and as a branch
    found = ranks(3)(evaluate_on_rank, examples)
    assert found == [(likelihood, generated, -(-(calls - tries) // 3) + tries)] * 3
