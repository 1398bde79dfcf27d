"""Checks of a sweep's data: overlaps between splits, and how its answers are read."""

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from gallop_ray.preflight.findings import Finding, ok, problem, warning
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.examples import SPLITS, TaskData
from gallop_ray.tasks.lines import file_texts
from gallop_ray.tasks.load import load_tasks
from gallop_ray.tasks.references import misread

_TOLD = 5  # examples, at most


def refuse_unusable(sweep: Sweep) -> None:
    """Raises ValueError for the user's own data that cannot be read or trained on, before a cluster is started."""
    if (path := text_file(sweep)) is not None:
        deque(file_texts(path), 0)
    if not Path(sweep.data.root).is_dir():
        return
    # Imported here: transformers and torch take the driver seconds, which only the user's own data needs.
    from gallop_ray.tasks.lengths import too_long
    from gallop_ray.training.models import local_tokenizer

    tasks, tokenizer = load_tasks(sweep), local_tokenizer(sweep.model)
    if tokenizer is not None and (unfit := too_long(tasks.values(), tokenizer, sweep.training.max_length)):
        more = [f"and {len(unfit) - _TOLD} more"] if len(unfit) > _TOLD else []
        raise ValueError("\n".join([*unfit[:_TOLD], *more]))


def text_file(sweep: Sweep) -> Path | None:
    """The user's file of general text; None where a sweep measures none, or uses another source."""
    source = sweep.evaluation.text_of(sweep.model.name)
    return Path(source) if source is not None and source.endswith(".jsonl") else None


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


def references(tasks: Mapping[str, TaskData]) -> Iterator[Finding]:
    """Outputs that are parsed as an answer other than their own, by task and split."""
    for task in tasks.values():
        for split in SPLITS:
            if found := misread(getattr(task, split)):
                yield warning(f"{task.name}.{split}: {found}", found.fix)
