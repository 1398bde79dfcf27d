"""Checks of a sweep's data: overlaps between splits, and how its answers are read."""

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gallop_ray.disk.bucket.inputs import brought, refuse_missing
from gallop_ray.preflight.findings import Finding, ok, problem, warning
from gallop_ray.spec.references import addresses
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.duplicates import near_duplicates
from gallop_ray.tasks.examples import SPLITS, TaskData
from gallop_ray.tasks.lines import file_texts
from gallop_ray.tasks.load import load_tasks, local_tasks, own_task
from gallop_ray.tasks.references import misread

_TOLD = 5  # examples, at most


def refuse_unusable(sweep: Sweep) -> None:
    """Raises ValueError for the user's own data that cannot be read or trained on, before a cluster is started.

    And for a model that is not in its bucket: it is copied where it is needed, which may be on other machines alone.
    """
    for address in dict.fromkeys(addresses(sweep).values()):
        refuse_missing(address)
    if (path := text_file(sweep)) is not None:
        deque(file_texts(path), 0)
    local = [name for name in local_tasks(sweep.data) if sweep.data.root != "generated" or name in sweep.data.tasks]
    if not local:
        return
    # Imported here: transformers and torch take the driver seconds, which only the user's own data needs.
    from gallop_ray.tasks.lengths import too_long
    from gallop_ray.training.models import local_tokenizer

    tasks, tokenizer = load_tasks(sweep, local), local_tokenizer(sweep.model)
    if tokenizer is not None and (unfit := too_long(sweep, tasks, tokenizer)):
        more = [f"and {len(unfit) - _TOLD} more"] if len(unfit) > _TOLD else []
        raise ValueError("\n".join([*unfit[:_TOLD], *more]))


def text_file(sweep: Sweep) -> Path | None:
    """The user's file of general text; None where a sweep measures none, or uses another source."""
    source = sweep.evaluation.text_of(sweep.model.name)
    return Path(brought(source)) if source is not None and source.endswith(".jsonl") else None


def general_text(sweep: Sweep) -> Iterator[Finding]:
    """Whether the whole file of general text can be read."""
    if (path := text_file(sweep)) is None:
        return
    try:
        count = sum(1 for _ in file_texts(path))
    except ValueError as error:
        yield problem(str(error), "Change it, give another file, or set evaluation.text to null")
    else:
        yield ok(
            f"general text: {count} texts in {path}, of which {min(count, sweep.evaluation.text_examples)} are used"
        )


def formats(sweep: Sweep, tasks: Mapping[str, TaskData], tokenizer: Any) -> Iterator[Finding]:
    """Which format the rows of the user's own tasks are of, what was held out, and a task's first example."""
    from gallop_ray.tasks.encode import encode
    from gallop_ray.tasks.rendered import LEARNT, rendered

    for name, task in tasks.items():
        if (own := own_task(name, sweep.data)) is not None:
            held = "".join(f", {100 * share:g} % held out for {split}" for split, share in own.shares.items())
            yield ok(f"{name}: format {own.format} of {own.task.source}{held}")
        first = next(iter((*task.train, *task.test)), None)
        if first is None or tokenizer is None:
            continue
        try:
            asked = sweep.data.task(name)
            encoded = encode(first, tokenizer, sweep.data.prompt, sweep.training.max_length, asked.learn)
        except ValueError:
            continue  # the checks of lengths and templates say it
        begin, end = LEARNT
        yield ok(f"{name}, first example, {begin}what is learnt{end}: {rendered(encoded, tokenizer)}")


def overlaps(tasks: Mapping[str, TaskData]) -> Iterator[Finding]:
    """Questions that are in two splits: the test then measures memorization, or is seen by the search."""
    for trained in tasks.values():
        known = {one.question for one in trained.train}
        for task in tasks.values() if known else ():
            own = "" if task is trained else f" of {trained.name}"
            for split in ("validation", "test"):
                examples = getattr(task, split)
                if both := sum(one.question in known for one in examples):
                    text = (
                        f"{both} of the {len(examples)} {split} examples of {task.name} are training examples{own}, too"
                    )
                    yield warning(text, "Take them out of one of the two")
    for task in tasks.values():
        known = {one.question for one in task.validation}
        if both := sum(one.question in known for one in task.test):
            text = f"{both} of the {len(task.test)} test examples of {task.name} are validation examples, too"
            yield warning(f"{text}: the search sees them", "Take them out of one of the two")


def near_overlaps(sweep: Sweep, tasks: Mapping[str, TaskData]) -> Iterator[Finding]:
    """Test examples that nearly are training examples.

    Tasks with solved examples before each question, which are the same ones, and generated tasks are left out.
    """
    looked_at = [task for task in tasks.values() if not sweep.data.task(task.name).few_shot]
    if sweep.data.root == "generated":
        looked_at = [task for task in looked_at if task.name in sweep.data.tasks]
    for trained in (task for task in looked_at if task.train):
        for task in looked_at:
            if (near := near_duplicates(task.test, trained.train)) is None:
                continue
            own = "" if task is trained else f" of {trained.name}"
            one, other = (each.place or f"{each.question[0]!r:.90}" for each in near.first)
            looked = f"{near.count} of {near.looked_at} test examples of {task.name} nearly are training examples{own}"
            looked += f" (of {near.against} looked at), such as {one} and {other}"
            yield warning(looked, "Take them out of one of the two")


def references(tasks: Mapping[str, TaskData]) -> Iterator[Finding]:
    """Outputs that are parsed as an answer other than their own, by task and split."""
    for task in tasks.values():
        for split, examples in zip(SPLITS, task.prompted, strict=False):
            if found := misread(examples):
                yield warning(f"{task.name}.{split}: {found}", found.fix)
