"""Questions with the answers to choose from, worded for either formulation (OLMES, arXiv 2406.08446).

cloze: the answers' texts are compared as continuations of the question, as lm-evaluation-harness words it. label: the
prompt lists the answers, and their letters are compared.
"""

from dataclasses import dataclass

from gallop_ray.spec.tasks import Formulation
from gallop_ray.tasks.examples import Example

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Choice:
    """A prompt up to where the answer begins, the answers' texts, and the index of the right one.

    asked: the question alone, which the answers are listed under; the prompt by default.
    joint: what stands between the prompt and an answer.
    """

    prompt: str
    texts: tuple[str, ...]
    label: int
    place: str = ""
    asked: str = ""
    joint: str = " "


def question_prompt(question: str, context: str = "") -> str:
    """As lm-evaluation-harness words ARC, PIQA and BoolQ."""
    return f"{context}\nQuestion: {question}\nAnswer:" if context else f"Question: {question}\nAnswer:"


def joint_of(template: str) -> str:
    """What stands between a prompt of the user's own and an answer: a blank, unless the prompt ends with one."""
    return "" if template[-1:].isspace() else " "


def worded(choice: Choice, formulation: Formulation | None) -> Example:
    """The example. Raises ValueError where the answers cannot be told apart, or are too many for letters."""
    at = f"{choice.place}: " if choice.place else ""
    if len(choice.texts) < 2:
        raise ValueError(f"{at}one answer to choose from; a choice needs two or more")
    if not all(map(str.strip, choice.texts)):
        raise ValueError(f"{at}one of the answers {list(choice.texts)} is empty; change it")
    # Public data has wrong answers twice (OpenBookQA's training set). By their texts they are one; by letters only the
    # right one must not have another letter, too.
    right, different = choice.texts[choice.label], tuple(dict.fromkeys(choice.texts))
    if len({text.strip() for text in different}) < max(2, len(different)):
        raise ValueError(f"{at}the answers {list(choice.texts)} are not different; change them")
    if formulation != "label":
        label = different.index(right)
        return Example(choice.prompt, "", different, different, label, joint=choice.joint, place=choice.place)
    if choice.texts.count(right) > 1:
        raise ValueError(f"{at}the right answer {right!r} is there twice, so that two letters are right; change it")
    if len(choice.texts) > len(LETTERS):
        raise ValueError(f"{at}{len(choice.texts)} answers, more than there are letters; take formulation: cloze")
    letters = tuple(LETTERS[: len(choice.texts)])
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, choice.texts, strict=True))
    prompt = f"{choice.asked or choice.prompt}\n{listed}\nAnswer:"
    return Example(prompt, "", letters, letters, choice.label, joint=" ", place=choice.place)
