"""Where prompt and answer meet the tokens are those of the whole text, as lm-evaluation-harness takes them."""

import pytest
from lm_eval.api.model import TemplateLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from gallop_ray.tasks.boundary import meet, prompt_alone
from gallop_ray.tasks.encode import IGNORED, encode, encode_options, encode_prompt
from gallop_ray.tasks.examples import Example, reasoned

TEXTS = [
    "Question: is it so?\nAnswer: yes",
    "Question: is it so?\nAnswer: no, it is not\n\nAnswer: 12",
    "one two  three\n\nit is so: yes\n\n\nno\n\n\n",
] * 20


def byte_level(**special: str) -> PreTrainedTokenizerFast:
    """A tokenizer as GPT-2's, trained on a few words: blanks are parts of words, line breaks of one another."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<pad>", **special)


TOKENIZER = byte_level()
ANSWERS = ["yes", "no, it is not", "12", "so it is"]


def harness_pair(prompt: str, answer: str) -> tuple[list[int], list[int]]:
    class Model(TemplateLM):
        backend = "causal"
        eot_token_id = prefix_token_id = None
        loglikelihood_rolling = generate_until = _loglikelihood_tokens = None

        def tok_encode(self, string, add_special_tokens=None, **kwargs):
            return TOKENIZER(string)["input_ids"]

    return Model()._encode_pair(prompt, answer)


@pytest.mark.parametrize("prompt", ["Question: is it so?\nAnswer:", "Question: is it so?\nAnswer: ", "Answer:  "])
@pytest.mark.parametrize("before", ["", " "])
def test_a_prompt_and_an_answer_are_cut_where_the_harness_cuts_them(prompt, before):
    for answer in ANSWERS:
        ids, (found,) = meet(prompt, [before + answer], TOKENIZER)
        assert (ids, found) == harness_pair(prompt, before + answer)
        assert ids + found == TOKENIZER(prompt + before + answer)["input_ids"]


def test_the_prompt_is_one_for_all_options_though_the_blank_merges_with_some_only():
    ids, found = meet("Answer: ", [*ANSWERS, "~"], TOKENIZER)
    assert TOKENIZER.decode(ids) == "Answer:"
    assert [TOKENIZER.decode(each) for each in found] == [f" {each}" for each in [*ANSWERS, "~"]]
    for answer, each in zip(ANSWERS, found, strict=False):
        assert ids + each == TOKENIZER(f"Answer: {answer}")["input_ids"]


def test_line_breaks_are_the_prompts_though_they_merge_with_each_other_at_a_texts_end():
    prompt = "it is so: yes\n\n\n"
    assert TOKENIZER(prompt)["input_ids"] != TOKENIZER(prompt + "no")["input_ids"][:-1], "else nothing is tried here"
    ids, found = meet(prompt, ["no", "yes"], TOKENIZER)
    assert TOKENIZER.decode(ids) == prompt
    assert [TOKENIZER.decode(each) for each in found] == ["no", "yes"]
    assert ids + found[0] == TOKENIZER(prompt + "no")["input_ids"]
    assert prompt_alone(prompt, TOKENIZER) == ids


def test_training_likelihood_and_generation_see_one_prompt():
    for template in ("{instruction}\n\n\n", "{instruction} Answer: ", "{instruction} Answer:"):
        choice = Example("is it so?", "", ("yes", "no, it is not"), ("yes", "no"), 1)
        number = reasoned("is it so?", "", "12", 12)
        for example in (choice, number):
            trained = encode(example, TOKENIZER, template, 100)
            prompt = trained.input_ids[: trained.labels.count(IGNORED)]
            assert encode_prompt(example, TOKENIZER, template, 100) == prompt
            assert encode_options(example, TOKENIZER, template, 100).prompt == prompt
            text = template.replace("{instruction}", "is it so?") + example.answer
            assert trained.input_ids == [*TOKENIZER(text)["input_ids"], TOKENIZER.eos_token_id]
