"""How a model is asked that a run has trained: exported with it, since an answer is worth no more than its prompt."""

import json
import logging
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from gallop_ray.exports.request import Request
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RoundFolder
from gallop_ray.records.stored import open_sweep
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.accuracy import end_ids
from gallop_ray.tasks.chat import chat_end
from gallop_ray.tasks.encode import CHAT, encode_prompt, ends_as_chat
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.lengths import first_trained
from gallop_ray.tasks.load import load_task
from gallop_ray.tasks.measuring import measuring
from gallop_ray.tasks.predictions import prompt_text
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.training.models import tokenizer_and_ends

PROMPT_FILE = "prompt.json"
_LOG = logging.getLogger(__name__)


def write_prompt(request: Request, folder: Path, whole: bool) -> None:
    """Write prompt.json, which docs/howto/model.md describes; where `whole`, the tokenizer with its chat template and
    generation_config.json, too: a folder that is loaded by itself.

    Data that is not there any more leaves out the example and the generation settings, with a warning.
    """
    sweep = open_sweep(SweepFolder(request.run.whole.path.parent.parent).path).sweep
    tokenizer, own = tokenizer_and_ends(sweep.model)
    if whole:
        tokenizer.save_pretrained(folder)
    task = request.run.task if isinstance(request.run, RoundFolder) else sweep.data.train_task
    try:
        example = first_trained(sweep, load_task(task, sweep.data, ("train",)), tokenizer)
    except (ValueError, OSError) as error:
        _LOG.warning("%s has no example of a prompt: %s", PROMPT_FILE, error)
        asked: dict[str, Any] = {"template": sweep.data.prompt}
    else:
        settings = settings_of(sweep, task, example)
        asked = _asked(example, tokenizer, settings)
        if whole:
            _generation(own, example, tokenizer, settings).save_pretrained(folder)
    (folder / PROMPT_FILE).write_text(json.dumps(asked, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def settings_of(sweep: Sweep, task: str, example: Example, batch_size: int = 1) -> EvaluationSettings:
    """How a task's answers were generated where they were measured."""
    usual = EvaluationSettings(
        prompt=sweep.data.prompt,
        max_length=sweep.training.max_length,
        batch_size=batch_size,
        max_new_tokens=sweep.evaluation.new_tokens(),
        max_reasoning_tokens=sweep.evaluation.new_tokens(reasoning=True),
    )
    return measuring(sweep, task, [example]).settings(usual)


def joint_of(example: Example) -> str | None:
    """What joins prompt and answer; None where a template does. A plain text is continued as it stands."""
    return "" if example.kind == "plain" else example.joint


def _asked(example: Example, tokenizer: Any, settings: EvaluationSettings) -> dict[str, Any]:
    ids, text = [], ""
    if example.kind != "plain":
        ids = encode_prompt(example, tokenizer, settings.prompt, settings.max_length)
        text = prompt_text(example, tokenizer, settings.prompt)
    joint = joint_of(example)
    chat = bool(example.messages) or (settings.prompt == CHAT and joint is None)
    return {
        "form": "chat template" if chat else "as it is" if joint is not None else "template",
        "template": None if chat or joint is not None else settings.prompt,
        "joint": joint,
        "max_length": settings.max_length,
        "max_new_tokens": _new_tokens(example, settings),
        "stop": list(settings.stop),
        "add_special_tokens": not ends_as_chat(example, settings.prompt),
        "example": {"prompt": text, "token_ids": ids, "answer": example.answer},
    }


def _new_tokens(example: Example, settings: EvaluationSettings) -> int:
    return settings.max_new_tokens if example.kind == "choice" else settings.max_reasoning_tokens


def _generation(
    own: GenerationConfig, example: Example, tokenizer: Any, settings: EvaluationSettings
) -> GenerationConfig:
    """Greedy, with the ends that evaluation has."""
    chat = chat_end(tokenizer) if ends_as_chat(example, settings.prompt) else []
    ends = chat if len(chat) == 1 else []  # several tokens are a text to stop at, which a configuration cannot hold
    return GenerationConfig(
        max_new_tokens=_new_tokens(example, settings),
        do_sample=False,
        eos_token_id=sorted({*end_ids(own, tokenizer), *ends}),
        pad_token_id=tokenizer.pad_token_id,
    )
