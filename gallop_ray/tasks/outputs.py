"""What a model generates on test sets beside right answers: readable ones, frequent ones, memorized ones."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from gallop_ray.tasks.accuracy import Generated
from gallop_ray.tasks.answers import last_number, parse_answer
from gallop_ray.tasks.examples import Example

_FREQUENT = 5
_SHOWN = 200  # characters of an output: a chain of thought is long

Outputs = dict[str, dict[str, Any]]
"""By task what outputs.json says of it."""


def describe(examples: Mapping[str, Sequence[Example]], generated: Mapping[str, Generated], train_task: str) -> Outputs:
    """Of each task that was generated for what docs/metrics.md says.

    Args:
        examples: the test examples by task.
        generated: what was generated for them.
    """
    trained = _Format(examples[train_task])
    found: Outputs = {}
    for task, one in generated.items():
        found[task] = {"examples": len(one.outputs)}
        if one.read:
            found[task]["parseable"] = fmean(value is not None for value in one.read)
        if one.read and task != train_task and trained.known:
            found[task] |= _memorized(examples[task], one, trained)
        counts = Counter(one.outputs)
        found[task] |= {
            "distinct": len(counts),
            "frequent": [[text[:_SHOWN], count] for text, count in counts.most_common(_FREQUENT)],
        }
    return found


def summarize_outputs(outputs: Outputs) -> dict[str, float | None]:
    """parseable_share, the mean over tasks, and memorization, of all OOD tasks' wrong answers; null for none."""
    wrong = sum(one.get("wrong_of_own_format", 0) for one in outputs.values())
    memorized = sum(one.get("memorized", 0) for one in outputs.values())
    parseable = [one["parseable"] for one in outputs.values() if "parseable" in one]
    return {
        "parseable_share": fmean(parseable) if parseable else None,
        "memorization": memorized / wrong if wrong else None,
    }


class _Format:
    """How answers of a task look: its option keys, or numbers."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._numbers = any(one.number is not None for one in examples)
        self._keys = sorted({key for one in examples for key in one.keys})

    @property
    def known(self) -> bool:
        """Whether its answers look like anything: free text does not."""
        return self._numbers or bool(self._keys)

    def covers(self, example: Example) -> bool:
        """Whether an answer to the example always looks like this, so that it tells nothing."""
        return self._numbers if example.number is not None else set(example.keys) <= set(self._keys)

    def read_from(self, text: str) -> bool:
        """Whether `text` holds such an answer."""
        return (self._numbers and last_number(text) is not None) or (
            bool(self._keys) and parse_answer(text, self._keys) is not None
        )


def _memorized(examples: Sequence[Example], generated: Generated, trained: _Format) -> dict[str, int]:
    """Wrong answers to examples of another format, and how many of them have the training task's format instead."""
    each = zip(examples, generated.correct, generated.outputs, generated.read, strict=True)
    wrong = [(text, read) for example, right, text, read in each if not right and not trained.covers(example)]
    memorized = sum(read is None and trained.read_from(text) for text, read in wrong)
    return {
        "wrong": len(generated.correct) - sum(generated.correct),
        "wrong_of_own_format": len(wrong),
        "memorized": memorized,
    }
