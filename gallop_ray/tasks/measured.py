"""What was measured of a split: the passes that a task's measures need, and what came of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gallop_ray.tasks.accuracy import Generated, generated_texts
from gallop_ray.tasks.answers import is_right, read_answer
from gallop_ray.tasks.choices import by_likelihood
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.losses import example_losses
from gallop_ray.tasks.measure_values import values_of
from gallop_ray.tasks.measuring import Measuring
from gallop_ray.tasks.progress import part
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.tasks.values import Values, packed


@dataclass(frozen=True)
class Split:
    """What was measured of a split: values by way, the one that counts first; and what was generated, if anything."""

    ways: dict[str, Values]
    generated: Generated | None = None


def measured(
    model: Any, tokenizer: Any, examples: Sequence[Example], how: Measuring, settings: EvaluationSettings, test: bool
) -> Split:
    """Measure the examples of a split. Collective, equal on every rank.

    Of validation examples with options the loss and the margin come from the passes that choose among them.
    """
    settings, measures = how.settings(settings), how.of(test)
    ways: dict[str, Values] = {}
    texts, seen = list[str](), dict[str, Values]()
    said, size = f"{how.task}, {'test' if test else 'validation'}", len(examples)
    if texted := [each.name for each in measures if each.by == "generation"]:
        ends = replace(settings, decided=texted == ["generated"])  # other measures read the whole of it
        with part(f"{said} by generation", size):
            texts = generated_texts(model, tokenizer, examples, ends)
    for each in measures:
        if each.by == "likelihood":
            with part(f"{said} by likelihood", size):
                chosen = by_likelihood(model, tokenizer, examples, settings, how.normalize)
            ways |= {way: packed(values) for way, values in chosen.ways.items()}
            seen = {"loss": packed(chosen.losses), "margin": packed(chosen.margins)}
        elif each.by == "loss":
            losses = seen.get("loss")
            if losses is None:
                with part(f"{said}, loss", size):
                    losses = packed(example_losses(model, tokenizer, examples, settings, how.learn))
            ways["loss"] = losses
        else:
            ways[each.name] = packed(values_of(each, texts, examples))
    return Split(ways if test else {**ways, **seen}, _read(texts, examples) if texts else None)


def _read(texts: list[str], examples: Sequence[Example]) -> Generated:
    if examples[0].kind == "text":  # what a text says is for its measures alone
        return Generated([], texts, [])
    read = [read_answer(text, one) for text, one in zip(texts, examples, strict=True)]
    return Generated([is_right(value, one) for value, one in zip(read, examples, strict=True)], texts, read)
