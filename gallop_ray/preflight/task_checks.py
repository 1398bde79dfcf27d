"""What the data of a sweep has to have: enough examples, of lengths that fit."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets

from gallop_ray.preflight.data_checks import formats, near_overlaps, overlaps, references
from gallop_ray.preflight.findings import Finding, ok, problem, warning
from gallop_ray.preflight.hub_checks import on_hub
from gallop_ray.preflight.plan import offline
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.chat import changes_with_time
from gallop_ray.tasks.encode import CHAT
from gallop_ray.tasks.examples import Example, TaskData
from gallop_ray.tasks.fisher import encoded_fisher, load_fisher
from gallop_ray.tasks.hub import HUB_TASKS
from gallop_ray.tasks.lengths import text_lengths, too_long
from gallop_ray.tasks.load import load_tasks, local_tasks
from gallop_ray.tasks.measuring import measuring
from gallop_ray.tasks.replay import encoded_replay, load_replay
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.training.models import local_tokenizer

_LOOKED_AT = 200  # examples of a split
_FEW = 50


def data(sweep: Sweep) -> Iterator[Finding]:
    """Whether every task has the splits that it needs, and its texts fit the maximum length."""
    datasets.disable_progress_bars()
    local = local_tasks(sweep.data)
    remote = [name for name in (*sweep.data.train_tasks, *sweep.data.ood) if name not in local]
    try:
        tasks = load_tasks(sweep, local)
    except ValueError as error:
        yield problem(str(error), "Correct the data, or data.train and data.ood")
        return
    try:
        with offline():
            tasks |= load_tasks(sweep, remote)
    except ValueError as error:
        names = [_hub_path(sweep, name) for name in remote]
        if None in names:
            yield problem(str(error), "Correct the data, or data.train and data.ood")
            return
        for name in dict.fromkeys(map(str, names)):
            yield on_hub(f"data of {name}", name, "dataset")
    yield from _sizes(sweep, tasks)
    yield from _replay(sweep, tasks)
    yield from _fisher(sweep)
    yield from formats(sweep, tasks, local_tokenizer(sweep.model))
    yield from overlaps(tasks)
    yield from near_overlaps(sweep, tasks)
    yield from references(tasks)
    yield from _lengths(sweep, tasks)


def _sizes(sweep: Sweep, tasks: Mapping[str, TaskData]) -> Iterator[Finding]:
    tested = ", ".join(f"{name} {len(task.validation)} + {len(task.test)}" for name, task in tasks.items())
    for train in (tasks[name] for name in sweep.data.train_tasks if name in tasks):
        yield ok(f"data: {len(train.train)} examples of {train.name} to train on; validation + test: {tested}")
    for name, task in tasks.items():
        if (fewest := min(len(task.validation), len(task.test))) < _FEW:
            text = f"{name} has {len(task.validation)} validation and {len(task.test)} test examples"
            steps = any(one.kind in ("choice", "number") for one in task.test)
            step = f"accuracies move in steps of {100 / max(1, fewest):.0f} %" if steps else "its mean is uncertain"
            yield warning(f"{text}: {step}", "Use more examples, or more seeds, to distinguish methods")


def _replay(sweep: Sweep, tasks: Mapping[str, TaskData]) -> Iterator[Finding]:
    """Whether there is enough of the task that is mixed into training."""
    counts = [len(tasks[name].train) for name in sweep.data.train_tasks if name in tasks]
    if sweep.data.replay is None or not counts:
        return
    tokenizer, name = local_tokenizer(sweep.model), sweep.data.replay.task
    try:
        with offline():
            replay = load_replay(sweep, max(counts))
            if tokenizer is not None:
                encoded_replay(sweep, max(counts), tokenizer)
    except ValueError as error:
        yield problem(str(error), "Correct data.replay")
        return
    count = len(replay.train) if replay else 0
    yield ok(f"data.replay: {count} examples of {name} beside {max(counts)}; masks are scored without them")


def _fisher(sweep: Sweep) -> Iterator[Finding]:
    """Whether there is enough of the task that `training.ewc` keeps."""
    asked, tokenizer = sweep.data.fisher, local_tokenizer(sweep.model)
    if asked is None:
        return
    try:
        with offline():
            load_fisher(sweep)
            count = asked.examples if tokenizer is None else len(encoded_fisher(sweep, tokenizer))
    except ValueError as error:
        yield problem(str(error), "Correct data.fisher")
        return
    yield ok(f"data.fisher: {count} examples of {asked.task} say which weights training.ewc holds")


def _hub_path(sweep: Sweep, name: str) -> str | None:
    """The hub's dataset of a task; None for a task that there is not."""
    return sweep.data.task(name).source or (HUB_TASKS[name].path if name in HUB_TASKS else None)


def _lengths(sweep: Sweep, tasks: Mapping[str, TaskData]) -> Iterator[Finding]:
    """Prompts that are truncated, and answers that are longer than what is generated."""
    tokenizer = local_tokenizer(sweep.model)
    if tokenizer is None:
        return
    if sweep.data.prompt == CHAT and tokenizer.chat_template is None:
        yield problem("data.prompt is chat, but the model has no chat template", "Write a prompt template")
        return
    longest = sweep.training.max_length
    try:
        unfit = too_long(sweep, tasks, tokenizer)
    except ValueError as error:  # of a chat template
        yield problem(str(error), "")
        return
    if unfit:
        more = f"; so it is with {len(unfit) - 1} more" if len(unfit) > 1 else ""
        yield problem(unfit[0] + more, "")
        return
    parts = [part[:_LOOKED_AT] for task in tasks.values() for part in task.prompted]
    examples = [one for part in parts for one in part]
    try:
        lengths = text_lengths(examples, tokenizer, sweep.data.prompt)
        dated = sweep.data.prompt == CHAT and changes_with_time(tokenizer)
    except ValueError as error:
        yield problem(str(error), "")
        return
    if dated:
        text = "the model's chat template writes the date into every prompt: all runs get that of the sweep's start"
        yield warning(text, "Sweeps started on different days differ by it")
    cut = sum(length > longest for length in lengths.texts)
    text = f"prompts and answers have up to {max(lengths.texts)} tokens, training.max_length is {longest}"
    if cut:
        dropped = ", or are left out of training" if sweep.training.too_long == "drop" else ""
        yield warning(
            f"{text}: {100 * cut / len(lengths.texts):.0f} % of the prompts lose their beginning{dropped}", "Raise it"
        )
    else:
        yield ok(text)
    for name, task in tasks.items():
        if measured := [one for part in task.prompted[1:] for one in part[:_LOOKED_AT]]:
            yield from cut_when_generated(sweep, name, measured, tokenizer)


def cut_when_generated(sweep: Sweep, name: str, examples: Sequence[Example], tokenizer: Any) -> Iterator[Finding]:
    """Whether a task's right answers fit into what is generated for it, if anything is."""
    how, evaluation = measuring(sweep, name, examples), sweep.evaluation
    usual = EvaluationSettings(
        prompt=sweep.data.prompt,
        max_length=sweep.training.max_length,
        batch_size=1,
        max_new_tokens=evaluation.new_tokens(),
        max_reasoning_tokens=evaluation.new_tokens(reasoning=True),
    )
    if not (room := how.new_tokens(usual)):
        return
    lengths = text_lengths(examples, tokenizer, sweep.data.prompt)
    answers = max(lengths.option, lengths.reasoning)
    if answers > room:
        of = "evaluation" if how.max_new_tokens is None else f"data.tasks.{name}"
        text = f"{name}: answers have up to {answers} tokens, {of}.max_new_tokens is {room}: generated ones are cut"
        yield warning(text, f"Give {answers} or more")
