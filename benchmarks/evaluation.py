"""Evaluation of choices: their options in one pass over the prompt, answers that end when they are decided."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.arms import Work, take_turns, training_arm
from benchmarks.models import Setting, base_model, device, setting
from benchmarks.report import row
from gallop_ray.spec.data import ModelSpec
from gallop_ray.tasks import accuracy, passes
from gallop_ray.tasks.accuracy import generated_texts
from gallop_ray.tasks.branches import reads_branches
from gallop_ray.tasks.choices import option_scores
from gallop_ray.tasks.decoding import decodes
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.training.models import load_model

BATCH = 16
LIKELIHOOD, GENERATION = 500, 200
QUICK = 24
WORDS = (
    *("light", "water", "energy", "animal", "plant", "rock", "heat", "moon", "force", "cell", "ocean", "metal", "food"),
    *("which", "of", "these", "is", "the", "best", "explains", "how", "a", "most", "likely", "to", "cause", "in", "an"),
)


@dataclass(frozen=True)
class _Loaded:
    model: Any
    tokenizer: Any


def measure(quick: bool) -> list[dict[str, Any]]:
    """Four answer texts by likelihood, against one row for each and against the harness; answers by generation."""
    shared, rows = setting(quick), []
    count, fewer = (QUICK, QUICK // 2) if quick else (LIKELIHOOD, GENERATION)
    arms = {name: training_arm(likelihood, shared, name, count) for name in ("ours", "a row for each", "harness")}
    found = take_turns(arms, quick=True)
    for name in ("a row for each", "harness"):
        rows.append(row(found["ours"], name, found[name], what="likelihood of four answers", **_label(shared, count)))
    arms = {name: training_arm(generation, shared, name, fewer) for name in ("ours", "to the end")}
    found = take_turns(arms, quick=True)
    rows.append(row(found["ours"], "to the end", found["to the end"], what="generation", **_label(shared, fewer)))
    return rows


def _label(shared: Setting, count: int) -> dict[str, Any]:
    return {**shared.label, "tokens": f"{count} questions"}


def likelihood(shared: Setting, how: str, count: int) -> Work:
    """The log-likelihoods of four answers to each question."""
    loaded, examples = _loaded(shared), questions(count)
    settings = EvaluationSettings("{instruction}", max_length=512, batch_size=BATCH)
    if how == "harness":
        return Work(_by_the_harness(loaded, examples, settings))
    reads = reads_branches if how == "ours" else lambda model, rows, pad_id: False

    def run() -> dict[str, int]:
        with patch.object(passes, "reads_branches", reads):
            return _best(option_scores(loaded.model, loaded.tokenizer, examples, settings))

    return Work(run)


def _best(scores: list[list[float]]) -> dict[str, int]:
    """A number that two arms with the same choices share."""
    return {"chosen": sum(4 ** (i % 8) * values.index(max(values)) for i, values in enumerate(scores))}


def _by_the_harness(
    loaded: _Loaded, examples: list[Example], settings: EvaluationSettings
) -> Callable[[], dict[str, int]]:
    from lm_eval.api.instance import Instance  # optional
    from lm_eval.models.huggingface import HFLM

    model = HFLM(loaded.model, tokenizer=loaded.tokenizer, batch_size=BATCH, device=str(device()))
    asked = [(one, option) for one in examples for option in one.options]

    def run() -> dict[str, int]:
        requests = [
            Instance("loglikelihood", {}, (one.instruction, f"{one.joint}{option}"), i)
            for i, (one, option) in enumerate(asked)
        ]
        values = [value for value, _ in model.loglikelihood(requests, disable_tqdm=True)]
        return _best([values[i : i + 4] for i in range(0, len(values), 4)])

    return run


def generation(shared: Setting, how: str, count: int) -> Work:
    """An answer to each question, of at most 16 tokens, from which one of four keys is read."""
    loaded, examples = _loaded(shared), listed(count)
    ours = how == "ours"
    settings = EvaluationSettings("{instruction}\n", max_length=512, batch_size=BATCH, decided=ours)
    tried = decodes if ours else lambda model, prompts, pad_id: False

    def run() -> dict[str, int]:
        with patch.object(accuracy, "decodes", tried):
            texts = generated_texts(loaded.model, loaded.tokenizer, examples, settings)
        return {"characters": sum(map(len, texts))}

    return Work(run)


def questions(count: int) -> list[Example]:
    """Questions and answers as long as those of ARC-Easy, by words."""
    draw, made = random.Random(0), []
    for i in range(count):
        question = " ".join(draw.choices(WORDS, k=min(60, max(5, round(draw.lognormvariate(3.0, 0.5))))))
        answers = tuple(
            f"{' '.join(draw.choices(WORDS, k=draw.choice((1, 1, 2, 3, 4, 6, 8))))} {place}" for place in "abcd"
        )
        made.append(Example(f"Question: {question}?\nAnswer:", "", answers, answers, i % 4, joint=" "))
    return made


def listed(count: int) -> list[Example]:
    """The same with their answers listed, of which the number is to be said, as LLM-Adapters ask."""
    keys = tuple(f"answer{place}" for place in range(1, 5))
    texts = tuple(f"the correct answer is {key}" for key in keys)
    made = []
    for one in questions(count):
        shown = " ".join(f"{key.capitalize()}: {text}" for key, text in zip(keys, one.options, strict=True))
        asked = f"Please choose the correct answer to the question: {one.instruction[10:-8]}\n\n{shown}\n\n"
        made.append(Example(f"{asked}Answer format: {'/'.join(keys)}", "", texts, keys, one.label))
    return made


def _loaded(shared: Setting) -> _Loaded:
    spec = ModelSpec.model_validate({"name": shared.model, "dtype": shared.dtype})
    tokenizer = load_model(ModelSpec(name="pocket"))[1] if not shared.pretrained else load_model(spec)[1]
    torch.manual_seed(0)
    return _Loaded(base_model(shared).eval(), tokenizer)
