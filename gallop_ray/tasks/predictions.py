"""What a model says to each test example: the lines of predictions.jsonl."""

from collections.abc import Mapping, Sequence
from typing import Any

from gallop_ray.tasks.accuracy import Generated
from gallop_ray.tasks.encode import _prompt_text, encode_prompt, is_cut
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.tasks.values import Values

Prediction = dict[str, Any]
"""A line of predictions.jsonl, as docs/records.md says, without what the base model said."""


def predictions(
    task: str,
    examples: Sequence[Example],
    ways: Mapping[str, Values],
    generated: Generated | None,
    prompts: Sequence[str],
) -> list[Prediction]:
    """One for each prompt: the first of the examples have one.

    ways: what was measured of all examples. generated: of all of them, too; None where nothing was.
    """
    return [
        {
            "task": task,
            "example": place,
            "prompt": prompts[place],
            "reference": _reference(examples[place]),
            **_said(place, examples[place], generated),
            "measured": {way: float(values[place]) for way, values in ways.items()},
        }
        for place in range(len(prompts))
    ]


def prompts_of(examples: Sequence[Example], tokenizer: Any, settings: EvaluationSettings) -> list[str]:
    """What the model is asked; of what is too long the part that it is given. Empty for plain text."""
    return [_prompt(one, tokenizer, settings) for one in examples]


def _prompt(one: Example, tokenizer: Any, settings: EvaluationSettings) -> str:
    if one.kind == "plain":
        return ""
    if is_cut(one, tokenizer, settings.prompt, settings.max_length):
        cut: str = tokenizer.decode(encode_prompt(one, tokenizer, settings.prompt, settings.max_length))
        return cut
    return prompt_text(one, tokenizer, settings.prompt)


def prompt_text(example: Example, tokenizer: Any, prompt: str) -> str:
    """The text of a prompt, whole, up to where the answer begins."""
    return _prompt_text(example, tokenizer, prompt)


def _reference(example: Example) -> str:
    """The right answer, by its short form where it has one, for that is what is looked for."""
    return example.keys[example.label] if example.keys else example.answer


def _said(place: int, example: Example, generated: Generated | None) -> Prediction:
    if generated is None:
        return {"output": None, "read": None, "right": None}
    read = generated.read[place] if generated.read else None
    return {
        "output": generated.outputs[place],
        "read": read if read is None or not example.keys else example.keys[int(read)],
        "right": generated.correct[place] if generated.correct else None,
    }
