import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from gallop_ray.tasks.encode import IGNORED, answer_loss, answer_positions, collate, encode, encode_options
from gallop_ray.tasks.examples import Example
from gallop_ray.training.pocket import pocket_tokenizer

TEMPLATE = "{instruction}\n{input}\n"
EXAMPLE = Example("max 3 7", "{input}", ("it is 3", "it is 7"), ("3", "7"), 1)


def test_prompt_then_answer_then_end_of_sequence():
    tokenizer = pocket_tokenizer()
    item = encode(EXAMPLE, tokenizer, TEMPLATE, 100)
    prompt = [label for label in item.labels if label == IGNORED]
    assert tokenizer.decode(item.input_ids[: len(prompt)]) == "max 3 7\n{input}\n"
    assert tokenizer.decode(item.input_ids[len(prompt) :]) == "it is 7<end>"
    assert item.labels[len(prompt) :] == item.input_ids[len(prompt) :]


def test_training_and_evaluation_see_the_same_tokens():
    tokenizer = pocket_tokenizer()
    for length in (12, 20, 100):
        options = encode_options(EXAMPLE, tokenizer, TEMPLATE, length)
        item = encode(EXAMPLE, tokenizer, TEMPLATE, length)
        assert item.input_ids == [*options.prompt, *options.options[1], tokenizer.eos_token_id]
        assert options.ended(1) == [*options.options[1], tokenizer.eos_token_id]


def test_a_long_prompt_is_cut_from_the_left():
    tokenizer = pocket_tokenizer()
    whole, cut = (encode(EXAMPLE, tokenizer, TEMPLATE, length) for length in (100, 12))
    assert len(cut.input_ids) == 12
    assert cut.input_ids == whole.input_ids[-12:]


def test_the_beginning_of_sequence_survives_the_cut():
    tokenizer = pocket_tokenizer()
    tokenizer.bos_token = "max"
    cut = encode(EXAMPLE, tokenizer, TEMPLATE, 12)
    assert cut.input_ids[0] == tokenizer.bos_token_id
    assert len(cut.input_ids) == 12


def test_chat_uses_the_template_of_the_tokenizer():
    tokenizer = pocket_tokenizer()
    with pytest.raises(ValueError, match="no chat template"):
        encode(EXAMPLE, tokenizer, "chat", 100)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}|assistant: "
    encoded = encode_options(EXAMPLE, tokenizer, "chat", 100)
    assert tokenizer.decode(encoded.prompt) == "user: max 3 7\n{input}|assistant:"
    assert tokenizer.decode(encoded.options[1]) == " it is 7", "the blank belongs to the word after it"


def test_what_cannot_be_encoded_is_said():
    tokenizer = pocket_tokenizer()
    with pytest.raises(ValueError, match="raise max_length"):
        encode(EXAMPLE, tokenizer, TEMPLATE, 6)
    with pytest.raises(ValueError, match=r"an answer option of .* is empty"):
        encode(Example("max", "", ("", "7"), ("", "7"), 1), tokenizer, TEMPLATE, 100)
    with pytest.raises(ValueError, match="gives an empty prompt"):
        encode(Example("max", "", ("3", "7"), ("3", "7"), 1), tokenizer, "{input}", 100)


def test_collate_pads_on_the_right():
    tokenizer = pocket_tokenizer()
    short = encode(Example("max 3", "", ("3", "7"), ("3", "7"), 0), tokenizer, TEMPLATE, 100)
    batch = collate([short, encode(EXAMPLE, tokenizer, TEMPLATE, 100)], tokenizer.pad_token_id)
    size = len(short.input_ids)
    assert batch["input_ids"][0, :size].tolist() == short.input_ids
    assert set(batch["input_ids"][0, size:].tolist()) == {tokenizer.pad_token_id}
    assert batch["attention_mask"].sum(1).tolist() == [size, batch["input_ids"].shape[1]]
    assert set(batch["labels"][0, size:].tolist()) == {IGNORED}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answer_loss_equals_a_slow_reference(dtype):
    torch.manual_seed(0)
    logits = torch.randn(3, 6, 11).to(dtype).requires_grad_()
    labels = torch.tensor([[IGNORED, IGNORED, 4, 5, 0, IGNORED], [IGNORED] * 5 + [3], [IGNORED] * 6])
    losses = answer_loss(logits, labels)
    positions = answer_positions(labels)
    assert positions.tolist() == [1, 2, 3, 4]
    assert torch.equal(answer_loss(logits[:, positions], labels, positions), losses)
    expected = torch.zeros(3)
    for i, places in enumerate([[2, 3, 4], [5]]):
        terms = [-logits[i, t - 1].float().log_softmax(-1)[labels[i, t]] for t in places]
        expected[i] = torch.stack(terms).mean()
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected)
    (gradient,) = torch.autograd.grad(losses.sum(), logits, retain_graph=True)
    (reference,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(gradient, reference)


def test_options_that_the_tokenizer_cannot_tell_apart_are_refused_with_their_line():
    words = Tokenizer(WordLevel({"<end>": 0, "[UNK]": 1, "it": 2, "is": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="[UNK]")
    example = Example("?", "", ("it is rouge", "it is vert"), ("rouge", "vert"), 0, place="data/colour.train.jsonl:7")
    for encoded in (encode, encode_options):
        with pytest.raises(ValueError, match=r"colour\.train\.jsonl:7: .*'it is rouge' and 'it is vert' apart"):
            encoded(example, tokenizer, TEMPLATE, 100)
