"""The pocket model: a Llama of about a million parameters that knows the generated source tasks.

It makes a whole sweep, forgetting included, fit into minutes on a laptop. It is pre-trained on the machine that first
asks for it, deterministically, because a file of weights has no place among source files.
"""

import hashlib
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gallop_ray.spec.data import DataSpec
from gallop_ray.tasks import encode as encode_module
from gallop_ray.tasks import examples as examples_module
from gallop_ray.tasks import generated as generated_module
from gallop_ray.tasks import token_loss as token_loss_module
from gallop_ray.tasks.encode import Encoded, answer_loss, answer_positions, collate, encode
from gallop_ray.tasks.generated import GENERATED_TASKS, SOURCE_TASKS, generated_examples
from gallop_ray.training.save import save_model

STEPS = 500
_BATCH_SIZE = 64
_LEARNING_RATE = 3e-3
_WARMUP = 100
_EXAMPLES_PER_TASK = 2000
_MAX_LENGTH = 32
_SEED = 0
_PROMPT: str = DataSpec.model_fields["prompt"].default


def pocket_config() -> LlamaConfig:
    """The architecture; its vocabulary is that of `pocket_tokenizer`."""
    return LlamaConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )


def pocket_tokenizer() -> Any:
    """Bytes, plus one token for each word, spaced digit and line ending of the generated tasks."""
    tokenizer = Tokenizer(models.BPE(vocab=_vocabulary(), merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast: Any = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=tokenizer,
        eos_token="<end>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def pretrain_pocket(folder: Path, steps: int = STEPS) -> None:
    """Pre-train the model on the source tasks and save it, with its tokenizer, in `folder`.

    The weights are the same whenever it runs on one kind of machine: seed and thread count are set here, and put back.
    """
    print("pre-training the pocket model, about a minute, once", file=sys.stderr, flush=True)
    started = time.monotonic()
    with _repeatable():
        tokenizer = pocket_tokenizer()
        model = LlamaForCausalLM(pocket_config())
        _train(model, _source_examples(tokenizer), tokenizer.pad_token_id, steps)
    save_model(model, folder)
    tokenizer.save_pretrained(folder)
    print(f"pre-trained the pocket model in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def pocket_fingerprint() -> str:
    """A hash of everything that determines the weights: the code of model, tasks and encoding, and the prompt."""
    sources = (generated_module, encode_module, token_loss_module, examples_module)
    modules = [__file__, *(str(source.__file__) for source in sources)]
    parts = [Path(one).read_bytes() for one in modules] + [
        _PROMPT.encode(),
        torch.__version__.encode(),
        transformers.__version__.encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _train(model: LlamaForCausalLM, pool: list[Encoded], pad_id: int, steps: int) -> None:
    draw = random.Random(_SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / _WARMUP) * (1 - step / steps)
    )
    model.train()
    for _ in range(steps):
        batch = collate(draw.choices(pool, k=_BATCH_SIZE), pad_id)
        labels = batch.pop("labels")
        positions = answer_positions(labels)
        logits = model(**batch, use_cache=False, logits_to_keep=positions).logits
        answer_loss(logits, labels, positions).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def _source_examples(tokenizer: Any) -> list[Encoded]:
    examples = [one for task in SOURCE_TASKS for one in generated_examples(task, "train", 0)[:_EXAMPLES_PER_TASK]]
    return [encode(one, tokenizer, _PROMPT, _MAX_LENGTH) for one in examples]


@contextmanager
def _repeatable() -> Iterator[None]:
    """One thread and a fixed seed, on the CPU; both put back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(_SEED)
            yield
    finally:
        torch.set_num_threads(threads)


def _vocabulary() -> dict[str, int]:
    spaced_digits = [f"Ġ{digit}" for digit in range(10)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<end>", "<pad>", *alphabet, *GENERATED_TASKS, *spaced_digits, "ĊĊ"]
    return {token: i for i, token in enumerate(tokens)}
