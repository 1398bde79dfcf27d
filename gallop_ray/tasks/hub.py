"""Tasks from the Hugging Face hub, in our own wording.

HF_HOME, HF_TOKEN and HF_HUB_OFFLINE work as everywhere; the datasets cache locks itself, so that one process of a
node downloads and the others wait.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gallop_ray.spec.problems import first_line
from gallop_ray.tasks.answers import as_number
from gallop_ray.tasks.examples import Example, Split, reasoned

Row = dict[str, Any]


@dataclass(frozen=True)
class HubTask:
    """A hub dataset, its configuration, which of its splits serve as ours, and how a row becomes an example."""

    path: str
    config: str | None
    example: Callable[[Row], Example]
    splits: dict[Split, str] = field(default_factory=lambda: {"train": "train", "test": "validation"})


def hub_splits(task: str) -> list[Split]:
    """The labelled splits of a task. Where the hub has no test labels, its validation split is our test split."""
    return list(HUB_TASKS[task].splits)


def hub_rows(path: str, config: str | None, split: str) -> Any:
    """A split of a hub dataset; raises whatever the hub's libraries raise."""
    from datasets import Dataset, load_dataset  # here: two seconds, which sweeps of other sources do not need

    rows = load_dataset(path, config, split=split)
    assert isinstance(rows, Dataset)
    return rows


def hub_examples(task: str, split: Split) -> list[Example]:
    """All examples of a split, in the hub's order; ValueError where it can be neither downloaded nor found cached."""
    known = HUB_TASKS[task]
    try:
        rows = hub_rows(known.path, known.config, known.splits[split])
    except Exception as error:  # whatever the hub's libraries raise of a network, a name or a file
        raise ValueError(
            f"cannot load task {task} ({known.path}) from the hub: {first_line(error)}. Check the network, or "
            "set data.root to a folder of <task>.<split>.jsonl"
        ) from error
    return [known.example(row) for row in rows]


def arc(row: Row) -> Example:
    """ai2_arc: question, choices (text, label) and answerKey, which is a letter or a digit."""
    return _multiple_choice(row["question"], row["choices"]["text"], row["choices"]["label"].index(row["answerKey"]))


def openbookqa(row: Row) -> Example:
    """openbookqa: question_stem, choices (text, label) and answerKey."""
    return arc({**row, "question": row["question_stem"]})


def boolq(row: Row) -> Example:
    """boolq: question, passage and a boolean answer."""
    instruction = f"Read the passage, then answer true or false.\n\nQuestion: {row['question']}?"
    return _example(instruction, row["passage"], ("true", "false"), 0 if row["answer"] else 1)


def piqa(row: Row) -> Example:
    """piqa: goal, sol1, sol2 and label 0 or 1."""
    return _multiple_choice(f"How would you do this? {row['goal']}", (row["sol1"], row["sol2"]), int(row["label"]))


def hellaswag(row: Row) -> Example:
    """hellaswag: activity_label, ctx, endings and label "0" to "3"."""
    question = f"{row['activity_label']}: which ending fits? {row['ctx']}"
    return _multiple_choice(question, row["endings"], int(row["label"]))


def winogrande(row: Row) -> Example:
    """winogrande: sentence with a gap `_`, option1, option2 and answer "1" or "2"."""
    question = f"Who or what belongs in the gap? {row['sentence']}"
    return _multiple_choice(question, (row["option1"], row["option2"]), int(row["answer"]) - 1)


def siqa(row: Row) -> Example:
    """siqa: context, question, answerA, answerB, answerC and label "1" to "3"."""
    answers = (row["answerA"], row["answerB"], row["answerC"])
    return _multiple_choice(f"{row['context']} {row['question']}", answers, int(row["label"]) - 1)


def gsm8k(row: Row) -> Example:
    """gsm8k: question and answer, which is steps with calculations in << >>, and the number after ####."""
    steps, _, answer = row["answer"].partition("####")
    number = as_number(answer)
    assert number is not None, row["answer"]
    text = re.sub(r"<<.*?>>", "", steps).strip()
    return reasoned(row["question"], "", f"{text}\nThe answer is {answer.strip()}.", number)


def _multiple_choice(question: str, answers: Sequence[str], label: int) -> Example:
    keys = tuple(f"answer{number}" for number in range(1, len(answers) + 1))
    listed = "\n".join(f"{key}: {answer}" for key, answer in zip(keys, answers, strict=True))
    return _example(f"{question}\n\n{listed}\n\nWhich answer is right: {', '.join(keys)}?", "", keys, label)


def _example(instruction: str, text: str, keys: tuple[str, ...], label: int) -> Example:
    return Example(instruction, text, tuple(f"the right answer is {key}" for key in keys), keys, label)


_ALL: dict[Split, str] = {"train": "train", "validation": "validation", "test": "test"}

HUB_TASKS = {
    "arc_easy": HubTask("allenai/ai2_arc", "ARC-Easy", arc, _ALL),
    "arc_challenge": HubTask("allenai/ai2_arc", "ARC-Challenge", arc, _ALL),
    "boolq": HubTask("google/boolq", None, boolq),
    "gsm8k": HubTask("openai/gsm8k", "main", gsm8k, {"train": "train", "test": "test"}),
    "hellaswag": HubTask("Rowan/hellaswag", None, hellaswag),
    "openbookqa": HubTask("allenai/openbookqa", "main", openbookqa, _ALL),
    "piqa": HubTask("baber/piqa", None, piqa),
    "siqa": HubTask("lighteval/siqa", None, siqa),
    "winogrande": HubTask("allenai/winogrande", "winogrande_xl", winogrande),
}
