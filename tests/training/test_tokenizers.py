"""Tokenizers of all kinds on one small model: what is trained has one beginning and one end, or it is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gallop_ray.spec.data import ModelSpec
from gallop_ray.tasks.encode import IGNORED, Encoded, answer_loss, collate, encode
from gallop_ray.tasks.examples import Example
from gallop_ray.training.models import load_model

SPECIAL = ("<s>", "</s>", "<pad>", "[B]", "[E]", "<unk>")
EXAMPLES = [
    Example("Is it so?", "", ("true", "false"), ("true", "false"), 0),
    Example("Is this one, which is a good deal longer, so, too?", "", ("true", "false"), ("true", "false"), 1),
]


def bytes_tokenizer(around: str | None = None) -> Tokenizer:
    """Of single bytes; `around` is what its post-processor writes around a text."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if around is not None:
        made.post_processor = processors.TemplateProcessing(
            single=around, special_tokens=[(token, vocabulary[token]) for token in SPECIAL if token in around]
        )
    return made


def words_tokenizer() -> Tokenizer:
    """Of words with the space before them, as SentencePiece writes it, which it puts before every text."""
    words = ["▁Is", "▁it", "▁so?", "▁true", "▁false", "▁a", *map(chr, range(33, 127)), "▁", "\n"]
    made = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*SPECIAL, *words])}, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return made


CASES: dict[str, tuple[Callable[[], Tokenizer], dict[str, str], list[str]]] = {
    "no padding token": (bytes_tokenizer, {"eos_token": "</s>"}, []),
    "padding is the end": (bytes_tokenizer, {"eos_token": "</s>", "pad_token": "</s>"}, []),
    "a beginning": (lambda: bytes_tokenizer("<s> $A"), {"eos_token": "</s>", "bos_token": "<s>"}, ["<s>"]),
    "a beginning that is not named": (lambda: bytes_tokenizer("[B] $A"), {"eos_token": "</s>"}, ["[B]"]),
    "a beginning and an end": (
        lambda: bytes_tokenizer("<s> $A </s>"),
        {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>"},
        ["<s>"],
    ),
    "the end at the beginning": (
        lambda: bytes_tokenizer("</s> $A"),
        {"eos_token": "</s>", "bos_token": "</s>", "pad_token": "<pad>"},
        ["</s>"],
    ),
    "words": (words_tokenizer, {"eos_token": "</s>", "unk_token": "<unk>"}, []),
}


def folder_of(made: Tokenizer, special: dict[str, str], folder: Path) -> ModelSpec:
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=made, **special)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=1, bos_token_id=None, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelSpec(name=str(folder))


def losses(model: Any, examples: list[Encoded], pad: int) -> Tensor:
    batch = collate(examples, pad)
    labels = batch.pop("labels")
    with torch.no_grad():
        return answer_loss(model(**batch).logits, labels)


@pytest.mark.parametrize("case", CASES)
def test_what_is_trained_has_one_beginning_and_one_end(case: str, tmp_path: Path) -> None:
    make, special, beginning = CASES[case]
    model, tokenizer = load_model(folder_of(make(), special, tmp_path))
    encoded = [encode(one, tokenizer, "{instruction}\n", 80) for one in EXAMPLES]
    for example, one in zip(EXAMPLES, encoded, strict=True):
        learnt = [label for label in one.labels if label != IGNORED]
        prompt = one.input_ids[: -len(learnt)]
        assert tokenizer.convert_ids_to_tokens(prompt[: len(beginning)]) == beginning
        assert tokenizer.eos_token_id not in prompt[len(beginning) :]
        assert learnt.count(tokenizer.eos_token_id) == 1
        assert learnt[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(learnt[:-1]).strip() == example.answer
    alone = torch.cat([losses(model, [one], tokenizer.pad_token_id) for one in encoded])
    torch.testing.assert_close(losses(model, encoded, tokenizer.pad_token_id), alone, rtol=1e-5, atol=1e-6)
    cut = encode(EXAMPLES[1], tokenizer, "{instruction}\n", 24)
    assert len(cut.input_ids) == 24
    assert tokenizer.convert_ids_to_tokens(cut.input_ids[: len(beginning)]) == beginning


@pytest.mark.parametrize(
    ("around", "special", "said"),
    [
        ("<s> $A", {"bos_token": "<s>"}, "the tokenizer has no end-of-sequence token; set eos_token in its folder"),
        (
            "[B] $A [E]",
            {"eos_token": "</s>"},
            r"ends every text with \[E\], but its end token is </s>; set eos_token in its folder to what ends a text",
        ),
    ],
)
def test_a_tokenizer_without_an_end_or_with_two_is_refused(
    around: str, special: dict[str, str], said: str, tmp_path: Path
) -> None:
    spec = folder_of(bytes_tokenizer(around), special, tmp_path)
    with pytest.raises(ValueError, match=said):
        load_model(spec)


def test_a_chat_template_writes_the_only_beginning(tmp_path: Path) -> None:
    spec = folder_of(bytes_tokenizer("<s> $A"), {"eos_token": "</s>", "bos_token": "<s>"}, tmp_path)
    _, tokenizer = load_model(spec)
    with pytest.raises(ValueError, match="no chat template; write a prompt template"):
        encode(EXAMPLES[0], tokenizer, "chat", 80)
    tokenizer.chat_template = "{{ bos_token }}{% for one in messages %}{{ one.content }}{% endfor %}\n"
    ids = encode(EXAMPLES[0], tokenizer, "chat", 80).input_ids
    assert tokenizer.convert_ids_to_tokens(ids).count("<s>") == 1
