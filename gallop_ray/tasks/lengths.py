"""How long examples are, in a model's tokens; and what becomes of those that are too long to train on."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gallop_ray.spec.rungs import climbs, rung_weights
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.encode import Encoded, TooLong, encode, encode_options, encode_prompt, no_room
from gallop_ray.tasks.examples import Example, TaskData
from gallop_ray.tasks.measuring import measuring

_NO_LIMIT = 10**9


@dataclass(frozen=True)
class Lengths:
    """In tokens: `texts` of each prompt with its longest answer and an end, the longest `option`, the longest
    `reasoning` that leads up to a number; 0 where there is none."""

    texts: list[int]
    option: int
    reasoning: int


def text_lengths(examples: Sequence[Example], tokenizer: Any, prompt: str) -> Lengths:
    """The lengths of some examples; `prompt` is as data.prompt."""
    texts, answers = [], []
    with warnings.catch_warnings(action="ignore"):
        for one in examples:
            if one.kind == "plain":
                texts.append(len(encode(one, tokenizer, prompt, _NO_LIMIT).input_ids))
                continue
            encoded = encode_options(one, tokenizer, prompt, _NO_LIMIT)
            longest = max(map(len, encoded.options))
            texts.append(len(encoded.prompt) + longest + len(encoded.end))
            answers.append((bool(one.keys), longest))
    options = [length for keys, length in answers if keys]
    return Lengths(texts, max(options, default=0), max((length for keys, length in answers if not keys), default=0))


@dataclass(frozen=True)
class Fitted:
    """Training examples in max_length tokens; how many were cut to fit, how many left out."""

    items: list[Encoded] = field(default_factory=list)
    cut: int = 0
    dropped: int = 0

    def __str__(self) -> str:
        whole = len(self.items) + self.dropped
        said = [f"{self.cut} are cut"] * bool(self.cut) + [f"{self.dropped} are left out"] * bool(self.dropped)
        return f"{self.cut + self.dropped} of {whole} training examples are longer than max_length: {', '.join(said)}"


def fitted(sweep: Sweep, task: TaskData, tokenizer: Any) -> Fitted:
    """A task's training examples as tokens; those that are too long as training.too_long says.

    Raises ValueError with file and line where one is refused, where an answer alone is too long to be cut, and where
    nothing is left.
    """
    policy, items = sweep.training.too_long, []
    cut = dropped = 0
    for one, item in _encoded(sweep, task, tokenizer):
        short = isinstance(item, Encoded) and not item.cut
        if policy == "drop" and not short:
            dropped += 1
            continue
        if isinstance(item, TooLong):
            raise item
        if policy == "refuse" and not short:
            raise ValueError(_refused(one, item, sweep.training.max_length))
        cut += not short
        items.append(item)
    if dropped and not items:
        raise ValueError(
            f"task {task.name}: all {dropped} training examples are longer than training.max_length "
            f"{sweep.training.max_length}, and too_long is drop; raise it"
        )
    return Fitted(items, cut, dropped)


def first_trained(sweep: Sweep, task: TaskData, tokenizer: Any) -> Example:
    """The first example that training learns. Raises ValueError where all are dropped for their length."""
    policy = sweep.training.too_long
    for one, item in _encoded(sweep, task, tokenizer):
        if isinstance(item, Encoded) and not (item.cut and policy == "drop"):
            return one
    raise ValueError(f"all examples of {task.name} are longer than training.max_length")


def too_long(sweep: Sweep, tasks: Mapping[str, TaskData], tokenizer: Any) -> list[str]:
    """A line for each example that cannot be used for its length, in the order of the data.

    Answers have to fit of what is trained on, of choices, and wherever losses are measured; the rest is asked alone.
    Raises ValueError for a conversation that the chat template does not write.
    """
    return [line for task in tasks.values() for line in _unfit(sweep, task, tokenizer)]


def _unfit(sweep: Sweep, task: TaskData, tokenizer: Any) -> Iterator[str]:
    training, trained = sweep.training, task.train if task.name in sweep.data.train_tasks else []
    whole = training.too_long == "refuse"  # then prompts count, too
    if trained and training.too_long != "drop":
        closely = [one for one in trained if whole or one.messages]
        for one, item in _encoded(sweep, TaskData(task.name, train=closely), tokenizer):
            if isinstance(item, TooLong):
                yield str(item)
            elif whole and item.cut:
                yield _refused(one, item, training.max_length)
    loosely = [one for one in trained if not whole and training.too_long != "drop" and one.kind != "plain"]
    asked, judged = _measured(sweep, task)
    answered = [one for one in (*loosely, *judged) if not one.messages]
    yield from _answers_too_long(answered, tokenizer, training.max_length)
    talks = [one for one in judged if one.messages]
    for _, item in _encoded(sweep, TaskData(task.name, train=talks), tokenizer):
        if isinstance(item, TooLong):
            yield str(item)
    for one in asked:
        if one.messages:
            encode_prompt(one, tokenizer, sweep.data.prompt, training.max_length)


def _measured(sweep: Sweep, task: TaskData) -> tuple[list[Example], list[Example]]:
    """The examples that are measured: those that are asked alone, and those whose answers are judged for their tokens.

    Plain text is neither: it is cut.
    """
    asked: list[Example] = []
    judged: list[Example] = []
    for examples, test in ((task.validation, False), (task.test, True)):
        if not examples or task.harness is not None or examples[0].kind == "plain":
            continue
        how = measuring(sweep, task.name, examples)
        by_loss = any(each.by == "loss" for each in how.of(test=True))
        rungs = not test and climbs(sweep) and task.name in rung_weights(sweep)
        judges = how.kind == "choice" or by_loss or rungs
        (judged if judges else asked).extend(examples)
    return asked, judged


def _answers_too_long(examples: Sequence[Example], tokenizer: Any, max_length: int) -> Iterator[str]:
    texts = list(dict.fromkeys(text for one in examples for text in one.options))
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    tokens = dict(zip(texts, map(len, ids), strict=True))
    lengths = [max(tokens[text] for text in one.options) + 1 for one in examples]
    return (no_room(one, n, max_length) for one, n in zip(examples, lengths, strict=True) if n >= max_length)


def _encoded(sweep: Sweep, task: TaskData, tokenizer: Any) -> Iterator[tuple[Example, Encoded | TooLong]]:
    prompt, length, learn = sweep.data.prompt, sweep.training.max_length, sweep.data.task(task.name).learn
    for one in task.train:
        try:
            yield one, encode(one, tokenizer, prompt, length, learn)
        except TooLong as error:
            yield one, error


def _refused(example: Example, item: Encoded, max_length: int) -> str:
    place = f"{example.place}: " if example.place else ""
    length = len(item.input_ids) + item.cut
    return (
        f"{place}the example has {length} tokens, training.max_length is {max_length} and training.too_long is refuse; "
        "raise max_length, or give cut or drop"
    )
