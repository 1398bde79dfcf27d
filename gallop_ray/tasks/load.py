"""Tasks by name, from wherever data.root says, in splits that never overlap."""

import difflib
import glob
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gallop_ray.spec.schema import DataSpec, Sweep
from gallop_ray.tasks.examples import SPLITS, Example, Split, TaskData, shuffled
from gallop_ray.tasks.folder import folder_examples, folder_splits, folder_tasks
from gallop_ray.tasks.generated import GENERATED_TASKS, generated_examples
from gallop_ray.tasks.hub import HUB_TASKS, hub_examples, hub_splits


@dataclass(frozen=True)
class _Source:
    """One task of a source: the splits it has, and its examples of a split."""

    splits: Sequence[Split]
    examples: Callable[[Split], list[Example]]


def load_tasks(sweep: Sweep) -> dict[str, TaskData]:
    """The data of every task of a sweep: all splits of those trained on, validation and test of the others.

    Raises ValueError where a task cannot be measured as the sweep asks.
    """
    data = sweep.data
    trained_on = {name: load_task(name, data) for name in data.train_tasks}
    found = trained_on | {name: load_task(name, data, ("validation", "test")) for name in data.ood}
    for name, task in found.items():
        if not sweep.evaluation.generate and any(one.number is not None for one in task.test + task.validation):
            raise ValueError(
                f"task {name} has no answer options, so its accuracy needs generated answers; set evaluation.generate "
                "to true, or leave the task out"
            )
    return found


def load_task(name: str, data: DataSpec, splits: Sequence[Split] = SPLITS) -> TaskData:
    """The asked-for splits of a task, shuffled by data.split_seed and then limited by data.limits.

    Where a task has no validation split, a seeded share (data.validation_share) is held out of its training split, or
    of its test split where it has no training split either. Raises ValueError for an unknown task, with the names of
    those that exist, and for a split that the task lacks.
    """
    source = _source(name, data)
    needed: list[Split] = [split for split in ("train", "test") if split in splits]
    for split in needed:
        if split not in source.splits:
            raise ValueError(f"task {name} in {data.root} has no {split} split, only {', '.join(source.splits)}")
    parts = {split: _part(name, split, source, data) for split in splits}
    limits = data.limits.model_dump()
    return TaskData(name, **{split: part[: limits[split]] for split, part in parts.items()})


def _part(name: str, split: Split, source: _Source, data: DataSpec) -> list[Example]:
    seed = f"{name}/{data.split_seed}"
    if "validation" in source.splits or split not in ("validation", _donor(source)):
        return shuffled(source.examples(split), f"{seed}/{split}")
    donated = shuffled(source.examples(_donor(source)), f"{seed}/held out")
    wanted = round(len(donated) * data.validation_share)
    if not 0 < wanted < len(donated):
        raise ValueError(
            f"task {name} has {len(donated)} examples, too few to hold out {data.validation_share} of them; "
            f"add a validation split or change data.validation_share"
        )
    held_out = _held_out(donated, wanted)
    validation = donated[:wanted] if held_out is None else [one for one in donated if one.question in held_out]
    if split == "validation":
        return validation
    return donated[wanted:] if held_out is None else [one for one in donated if one.question not in held_out]


def _held_out(donated: Sequence[Example], wanted: int) -> set[tuple[str, str]] | None:
    """The questions of about so many examples: the first that fit. One that is there several times goes as a whole.

    None where all examples ask the same, which no split can tell apart.
    """
    counts = Counter(one.question for one in donated)
    if len(counts) == 1:
        return None
    chosen: set[tuple[str, str]] = set()
    for question, count in counts.items():
        if count <= wanted:
            chosen.add(question)
            wanted -= count
    return chosen or {min(counts, key=counts.__getitem__)}


def _donor(source: _Source) -> Split:
    """The split that validation examples are held out of."""
    return "train" if "train" in source.splits else "test"


def _source(name: str, data: DataSpec) -> _Source:
    if data.root == "hub":
        _check_known(name, list(HUB_TASKS), "on the hub")
        return _Source(hub_splits(name), lambda split: hub_examples(name, split))
    if data.root == "generated":
        _check_known(name, list(GENERATED_TASKS), "among the generated tasks")
        return _Source(SPLITS, lambda split: generated_examples(name, split, data.split_seed))
    root = Path(data.root)
    _check_known(name, folder_tasks(root), f"in {root}", _other_files(root, name))
    return _Source(folder_splits(root, name), lambda split: folder_examples(root, name, split))


def _other_files(root: Path, name: str) -> str:
    """A hint at files of that name that are no <task>.<split>.jsonl, such as packed ones."""
    found = sorted(path.name for path in root.glob(f"{glob.escape(name)}.*"))
    return f" There is {found[0]}: give it as {name}.train.jsonl, unpacked, one object a line." if found else ""


def _check_known(name: str, known: list[str], where: str, more: str = "") -> None:
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ValueError(f"no task {name} {where}; there are: {', '.join(known) or 'none'}.{more or hint}")
