"""Tasks from the Hugging Face hub, worded as lm-evaluation-harness does it where answers have texts, else as we do.

HF_HOME, HF_TOKEN and HF_HUB_OFFLINE work as everywhere; the datasets cache locks itself, so that one process of a
node downloads and the others wait.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gallop_ray.spec.problems import first_line
from gallop_ray.spec.tasks import Formulation
from gallop_ray.tasks.answers import as_number
from gallop_ray.tasks.examples import Example, Split, reasoned
from gallop_ray.tasks.formats.contract import with_row
from gallop_ray.tasks.formats.wording import Choice, question_prompt, worded

Row = dict[str, Any]


@dataclass(frozen=True)
class HubTask:
    """A hub dataset, its configuration, which of its splits serve as ours, and how a row becomes an example."""

    path: str
    config: str | None
    example: Callable[[Row], Example | Choice]
    splits: dict[Split, str] = field(default_factory=lambda: {"train": "train", "test": "validation"})
    texts: bool = True
    """Whether the answers' texts continue the question, so that they can be compared."""

    def worded(self, row: Row, formulation: Formulation | None) -> Example:
        """The example of a row, by texts where there are any, unless labels are asked for."""
        found = self.example(row)
        if isinstance(found, Example):
            return found
        return labelled(found) if formulation == "label" or not self.texts else worded(found, "cloze")


def hub_splits(task: str) -> list[Split]:
    """The labelled splits of a task. Where the hub has no test labels, its validation split is our test split."""
    return list(HUB_TASKS[task].splits)


def hub_rows(path: str, config: str | None, split: str) -> Any:
    """A split of a hub dataset; raises whatever the hub's libraries raise."""
    from datasets import Dataset, load_dataset  # here: two seconds, which sweeps of other sources do not need

    rows = load_dataset(path, config, split=split)
    assert isinstance(rows, Dataset)
    return rows


def hub_examples(task: str, split: Split, formulation: Formulation | None = None) -> list[Example]:
    """All examples of a split, in the hub's order; ValueError where it can be neither downloaded nor found cached."""
    known = HUB_TASKS[task]
    try:
        rows = hub_rows(known.path, known.config, known.splits[split])
    except Exception as error:  # whatever the hub's libraries raise of a network, a name or a file
        raise ValueError(
            f"cannot load task {task} ({known.path}) from the hub: {first_line(error)}. Check the network, or "
            "set data.root to a folder of <task>.<split>.jsonl"
        ) from error
    return [with_row(known.worded(row, formulation), row) for row in rows]


def arc(row: Row) -> Choice:
    """ai2_arc: question, choices (text, label) and answerKey, which is a letter or a digit."""
    return _asked(row["question"], row["choices"]["text"], row["choices"]["label"].index(row["answerKey"]))


def openbookqa(row: Row) -> Choice:
    """openbookqa: question_stem, choices (text, label) and answerKey; the stem is continued."""
    choice = arc({**row, "question": row["question_stem"]})
    return replace(choice, prompt=row["question_stem"])


def boolq(row: Row) -> Choice:
    """boolq: question, passage and a boolean answer."""
    prompt = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
    asked = f"Read the passage, then answer yes or no.\n\nQuestion: {row['question']}?\n\n{row['passage']}"
    return Choice(prompt, ("no", "yes"), int(row["answer"]), asked=asked)


def piqa(row: Row) -> Choice:
    """piqa: goal, sol1, sol2 and label 0 or 1."""
    asked = f"How would you do this? {row['goal']}"
    return replace(_asked(row["goal"], (row["sol1"], row["sol2"]), int(row["label"])), asked=asked)


def hellaswag(row: Row) -> Choice:
    """hellaswag: activity_label, ctx_a, ctx_b, endings and label "0" to "3", cleaned as the harness does it."""
    prompt = _cleaned(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    asked = f"{row['activity_label']}: which ending fits? {row['ctx']}"
    return Choice(prompt, tuple(map(_cleaned, row["endings"])), int(row["label"]), asked=asked)


def _cleaned(text: str) -> str:
    """Without WikiHow's marks and what stands in brackets."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def winogrande(row: Row) -> Choice:
    """winogrande: sentence with a gap `_`, option1, option2 and answer "1" or "2"; a choice of labels.

    What lm-evaluation-harness compares is the end of the sentence after either option, which is no answer's text.
    """
    question = f"Who or what belongs in the gap? {row['sentence']}"
    return _asked(question, (row["option1"], row["option2"]), int(row["answer"]) - 1)


def siqa(row: Row) -> Choice:
    """siqa: context, question, answerA, answerB, answerC and label "1" to "3"."""
    answers, asked = (row["answerA"], row["answerB"], row["answerC"]), f"{row['context']} {row['question']}"
    return Choice(f"Q: {asked}\nA:", answers, int(row["label"]) - 1, asked=asked)


def gsm8k(row: Row) -> Example:
    """gsm8k: question and answer, which is steps with calculations in << >>, and the number after ####."""
    steps, _, answer = row["answer"].partition("####")
    number = as_number(answer)
    assert number is not None, row["answer"]
    text = re.sub(r"<<.*?>>", "", steps).strip()
    return reasoned(row["question"], "", f"{text}\nThe answer is {answer.strip()}.", number)


def _asked(question: str, answers: Sequence[str], label: int) -> Choice:
    return Choice(question_prompt(question), tuple(answers), label, asked=question)


def labelled(choice: Choice) -> Example:
    """The answers listed under the question, to be named by their labels; yes and no are labels already."""
    keys: tuple[str, ...] = choice.texts
    question = choice.asked
    if set(keys) != {"no", "yes"}:
        keys = tuple(f"answer{number}" for number in range(1, len(keys) + 1))
        listed = "\n".join(f"{key}: {answer}" for key, answer in zip(keys, choice.texts, strict=True))
        question = f"{question}\n\n{listed}\n\nWhich answer is right: {', '.join(keys)}?"
    return Example(question, "", tuple(f"the right answer is {key}" for key in keys), keys, choice.label)


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
    "winogrande": HubTask("allenai/winogrande", "winogrande_xl", winogrande, texts=False),
}
