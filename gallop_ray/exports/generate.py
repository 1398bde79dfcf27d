"""Answers of a trained model, greedily decoded with the prompt of its training, next to the base model's."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gallop_ray.exports.asked import joint_of, settings_of
from gallop_ray.exports.request import adapters, checked_run
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RoundFolder
from gallop_ray.records.stored import open_sweep
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.accuracy import generation_correct
from gallop_ray.tasks.examples import Example, Message, reasoned
from gallop_ray.tasks.lines import json_object, read_lines
from gallop_ray.tasks.load import load_task
from gallop_ray.training.merged import merged
from gallop_ray.training.models import load_model

_NOTHING = "(nothing: the model ends at once)"


@dataclass(frozen=True)
class Answer:
    """The answers of the tuned and the base model to an instruction; `input` may be empty."""

    instruction: str
    input: str
    tuned: str
    base: str


def asked_of(file: Path) -> list[tuple[str, str]]:
    """Instruction and input from each line of a file: from a .jsonl file's objects, else the line itself.

    Raises ValueError naming the line that has none.
    """
    if file.suffix == ".jsonl":
        rows = [(place, json_object(line, place)) for place, line in read_lines(file)]
        wrong = [place for place, row in rows if not isinstance(row.get("instruction"), str)]
        if wrong:
            raise ValueError(f"{wrong[0]}: instruction is missing, or is not text")
        return [(row["instruction"], str(row.get("input") or "")) for _, row in rows]
    try:
        lines = [line for line in file.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not lines:
        raise ValueError(f"{file}:1: the file is empty; write a prompt on each line")
    return [(line.rstrip("\r"), "") for line in lines]


class Speaker:
    """The model of a finished run and its base model, loaded once."""

    def __init__(self, run: str, tokens: int | None = None) -> None:
        """Raises ValueError where the run has no adapter, or its base model has changed."""
        folder, _ = checked_run(run)
        self._sweep: Sweep = open_sweep(SweepFolder(folder.whole.path.parent.parent).path).sweep
        self._base, self._tokenizer = load_model(self._sweep.model)
        model, _ = load_model(self._sweep.model)
        self._tuned = merged(model, adapters(folder))
        trained = folder.task if isinstance(folder, RoundFolder) else self._sweep.data.train_task
        self._like = load_task(trained, self._sweep.data, ("train",)).train[0]
        usual = settings_of(self._sweep, trained, self._like, self._sweep.evaluation.batch_size)
        self._settings = usual if tokens is None else replace(usual, max_reasoning_tokens=tokens)

    def answers(self, asked: Sequence[tuple[str, str]]) -> list[Answer]:
        """Both models' answers to each instruction with its input."""
        examples = [self._asked(*each) for each in asked]
        tuned, base = (self._said(model, examples) for model in (self._tuned, self._base))
        return [Answer(*each, *said) for each, *said in zip(asked, tuned, base, strict=True)]

    def _asked(self, instruction: str, text: str) -> Example:
        """An example that is asked as the run's training examples are: as a conversation, or by data.prompt.

        A text that training asks as it stands is asked so here, too: the user words it.
        """
        if self._like.messages:
            content = "\n".join(filter(None, [instruction, text]))
            return replace(self._like, messages=(Message("user", content), Message("assistant", ".")))
        return replace(reasoned(instruction, text, ".", 0.0), joint=joint_of(self._like), shots=self._like.shots)

    def _said(self, model: Any, examples: list[Example]) -> list[str]:
        return generation_correct(model, self._tokenizer, examples, self._settings).outputs


def print_answers(run: str, prompts: Sequence[str], file: str | None, tokens: int | None) -> None:
    """Print a run's answers to prompts, to a file's prompts, or to lines of standard input."""
    if tokens is not None and tokens < 1:
        raise ValueError(f"--max-new-tokens {tokens} is not allowed; must be 1 or more")
    asked = [*((prompt, "") for prompt in prompts), *(asked_of(Path(file)) if file else [])]
    speaker = Speaker(run, tokens)
    for batch in [asked] if asked else _typed():
        for each in speaker.answers(batch):
            question = "\n".join(filter(None, [each.instruction, each.input]))
            print(
                f"prompt: {question}\ntuned:  {each.tuned or _NOTHING}\nbase:   {each.base or _NOTHING}\n", flush=True
            )


def _typed() -> Iterator[list[tuple[str, str]]]:
    """One prompt per line, until the input ends."""
    if sys.stdin.isatty():
        print("one prompt per line; Ctrl-D ends", file=sys.stderr)
    for line in sys.stdin:
        if line.strip():
            yield [(line.rstrip("\n"), "")]
