"""Knowledge retention: the loss of general text, which no task is about."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from gallop_ray.disk.bucket.inputs import brought
from gallop_ray.spec.basics import BASICS_TEXT
from gallop_ray.spec.data import DataSpec
from gallop_ray.spec.metrics import TEXT_LOSS
from gallop_ray.spec.problems import first_line
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.training import GENERATED_TEXT
from gallop_ray.tasks.basics import basics_texts
from gallop_ray.tasks.encode import Encoded, encode
from gallop_ray.tasks.examples import Split, shuffled
from gallop_ray.tasks.generated import SOURCE_TASKS, generated_examples
from gallop_ray.tasks.hub import hub_rows
from gallop_ray.tasks.lines import file_texts
from gallop_ray.tasks.losses import loss_sums

_PROMPT: str = DataSpec.model_fields["prompt"].default


VALIDATION = f"val_{TEXT_LOSS}"


def load_text(sweep: Sweep, tokenizer: Any) -> list[Encoded]:
    """The text that a sweep reports the loss of, as tokens; none where it asks for none.

    Which texts are taken depends on the source alone. Of each all tokens but the first count, of generated text the
    answers. Raises ValueError naming the file's line, or the dataset, that cannot be used.
    """
    return _taken(sweep, tokenizer, 0)


def load_validation_text(sweep: Sweep, tokenizer: Any) -> list[Encoded]:
    """As many further texts of the same source, by whose loss a sweep goes; none where its objective is another."""
    return _taken(sweep, tokenizer, 1) if VALIDATION in sweep.objective.named else []


def _taken(sweep: Sweep, tokenizer: Any, turn: int) -> list[Encoded]:
    source, length = sweep.evaluation.text_of(sweep.model.name), sweep.training.max_length
    if source is None:
        return []
    count = sweep.evaluation.text_examples
    if source == GENERATED_TEXT:
        return _generated(tokenizer, length, count, "validation" if turn else "test")
    found = (_encoded(text, tokenizer, length) for text in shuffled(_texts(source), "text"))
    kept = list(islice((one for one in found if len(one.input_ids) > 1), turn * count, (turn + 1) * count))
    if not kept and turn:
        raise ValueError(
            f"evaluation.text {source} has no more than the {count} texts of two tokens that are reported, and "
            f"{VALIDATION} goes by others; give more text, or lower evaluation.text_examples"
        )
    if not kept:
        raise ValueError(f"evaluation.text {source} has no text of two tokens or more; give another, or null")
    return kept


def _texts(source: str) -> list[str]:
    if source == BASICS_TEXT:
        return basics_texts()
    return list(file_texts(Path(brought(source)))) if source.endswith(".jsonl") else hub_texts(source)


def text_loss(model: Any, items: Sequence[Encoded], pad_id: int) -> float | None:
    """Mean cross-entropy in nats of the labelled tokens of all items together; None without items.

    Collective; equal on every rank, and whatever their number.
    """
    if not items:
        return None
    sums = loss_sums(model, items, pad_id)
    return sum(total for total, _ in sums) / sum(count for _, count in sums)


def _encoded(text: str, tokenizer: Any, length: int) -> Encoded:
    ids: list[int] = tokenizer(text, truncation=True, max_length=length)["input_ids"]
    return Encoded(ids, ids)


def _generated(tokenizer: Any, length: int, count: int, split: Split) -> list[Encoded]:
    """Solved examples of the pocket model's source tasks: their answers are all that it was taught."""
    each = -(-count // len(SOURCE_TASKS))
    solved = [generated_examples(task, split, 0)[:each] for task in SOURCE_TASKS]
    return [encode(one, tokenizer, _PROMPT, length) for turn in zip(*solved, strict=True) for one in turn][:count]


def hub_texts(source: str) -> list[str]:
    """The field `text` of a dataset's test split; `<hub id>` or `<hub id>:<configuration>`."""
    path, _, config = source.partition(":")
    try:
        return [str(text) for text in hub_rows(path, config or None, "test")["text"]]
    except Exception as error:  # whatever the hub's libraries raise of a network, a name or a file
        raise ValueError(
            f"evaluation.text {source} is no .jsonl file and cannot be loaded from the hub (split test, field text): "
            f"{first_line(error)}"
        ) from error
