"""Tasks by name, from data.tasks or from wherever data.root says, in splits that never overlap."""

import difflib
import glob
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from gallop_ray.disk.bucket.inputs import brought
from gallop_ray.spec.basics import basics_name
from gallop_ray.spec.data import DataSpec
from gallop_ray.spec.places import is_file
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.tasks import TaskSpec, is_local
from gallop_ray.tasks.examples import MEASURED, SPLITS, Example, Split, TaskData, shuffled
from gallop_ray.tasks.folder import folder_examples, folder_splits, folder_tasks
from gallop_ray.tasks.generated import GENERATED_TASKS, generated_examples
from gallop_ray.tasks.held_out import hold_out
from gallop_ray.tasks.hub import HUB_TASKS, hub_examples, hub_splits
from gallop_ray.tasks.measuring import measuring, refuse_unmeasured_objective
from gallop_ray.tasks.own import OwnTask
from gallop_ray.tasks.shots import with_shots
from gallop_ray.tasks.unused import refuse_unused_fields


@dataclass(frozen=True)
class _Source:
    """One task of a source: the splits it has, and its examples of a split."""

    name: str
    splits: Sequence[Split]
    examples: Callable[[Split], list[Example]]


def local_tasks(data: DataSpec) -> list[str]:
    """The tasks whose rows are in files of this machine, or are made here."""
    return [name for name in (*data.train_tasks, *data.ood) if _is_local(data.task(name), data)]


def _is_local(task: TaskSpec, data: DataSpec) -> bool:
    if task.harness is not None:
        return is_file(task.harness)  # a task's own file; the harness' tasks are over data of the hub
    if task.source is None:
        return data.root != "hub"
    return basics_name(task.source) is not None or is_local(task.source)


def load_tasks(sweep: Sweep, names: Collection[str] | None = None) -> dict[str, TaskData]:
    """The data of a sweep's tasks, or of these: all splits of those trained on, validation and test of the others.

    Raises ValueError where a task cannot be measured as the sweep asks.
    """
    data = sweep.data
    asked = [name for name in (*data.train_tasks, *data.ood) if names is None or name in names]
    found = {name: load_task(name, data, SPLITS if name in data.train_tasks else MEASURED) for name in asked}
    for name, task in found.items():
        if task.harness is None:
            how, examples = measuring(sweep, name, task.test), [*task.validation, *task.test]
            how.check(examples)
            refuse_unused_fields(sweep, name, examples, how)
        if not sweep.evaluation.generate and any(one.number is not None for one in task.test + task.validation):
            raise ValueError(
                f"task {name} has no answer options, so its accuracy needs generated answers; set evaluation.generate "
                "to true, or leave the task out"
            )
    if names is None:
        refuse_unmeasured_objective(sweep, {name: measuring(sweep, name, task.test) for name, task in found.items()})
    return found


def load_task(name: str, data: DataSpec, splits: Sequence[Split] = SPLITS) -> TaskData:
    """The asked-for splits of a task, shuffled by data.split_seed and then limited by data.limits.

    Where a task has no validation split, a seeded share (data.validation_share) is held out of its training split, or
    of its test split where it has no training split either. Raises ValueError for an unknown task, with the names of
    those that exist, and for a split that the task lacks.
    """
    if name in data.tasks and data.tasks[name].harness is not None:
        return _of_the_harness(name, data, splits)
    source = _source(name, data)
    needed: list[Split] = [split for split in ("train", "test") if split in splits]
    for split in needed:
        if split not in source.splits:
            raise ValueError(f"task {name} in {source.name} has no {split} split, only {', '.join(source.splits)}")
    parts = {split: _part(name, split, source, data) for split in splits}
    if shots := data.task(name).few_shot:
        if "train" not in source.splits:
            raise ValueError(f"task {name} has no train split to draw data.tasks.{name}.few_shot from")
        train = parts["train"] if "train" in parts else _part(name, "train", source, data)
        parts = {split: with_shots(part, train, shots, f"{name}/shots") for split, part in parts.items()}
    limits = data.limits.model_dump()
    limited: dict[str, list[Example]] = {split: part[: limits[split]] for split, part in parts.items()}
    return TaskData(name, limited.get("train", []), limited.get("validation", []), limited.get("test", []))


def _of_the_harness(name: str, data: DataSpec, splits: Sequence[Split]) -> TaskData:
    """Validation and test of lm-evaluation-harness; what is trained on has a source of its own."""
    task = data.tasks[name]
    train: list[Example] = []
    if "train" in splits:
        if task.source is None:
            raise ValueError(
                f"task {name} is of lm-evaluation-harness, which tests; give it a `source` of training examples as well"
            )
        source = _source(name, data)
        if "train" not in source.splits:
            raise ValueError(f"task {name} in {source.name} has no train split, only {', '.join(source.splits)}")
        train = shuffled(source.examples("train"), f"{name}/{data.split_seed}/train")[: data.limits.train]
    # Here: the package is optional, and takes seconds to import.
    from gallop_ray.tasks.harness.task import HarnessTask

    found = HarnessTask(name, task, data)
    parts = {split: found.examples(split) if split in splits else [] for split in MEASURED}
    return TaskData(name, train, parts["validation"], parts["test"], found)


def _part(name: str, split: Split, source: _Source, data: DataSpec) -> list[Example]:
    seed = f"{name}/{data.split_seed}"
    if "validation" in source.splits or split not in ("validation", _donor(source)):
        return shuffled(source.examples(split), f"{seed}/{split}")
    donated = shuffled(source.examples(_donor(source)), f"{seed}/held out")
    wanted = round(len(donated) * data.validation_share)
    validation, rest = hold_out(donated, wanted, f"task {name}", "data.validation_share")
    return validation if split == "validation" else rest


def _donor(source: _Source) -> Split:
    """The split that validation examples are held out of."""
    return "train" if "train" in source.splits else "test"


def own_task(name: str, data: DataSpec) -> OwnTask | None:
    """The task of data.tasks, where it has a source of its own."""
    task = data.task(name)
    return None if task.source is None else OwnTask(name, task, name in data.read_tasks, data.split_seed)


def _source(name: str, data: DataSpec) -> _Source:
    task = data.task(name)
    if (own := own_task(name, data)) is not None:
        return _Source(str(task.source), own.splits, own.examples)
    if data.root == "hub":
        _check_known(name, [*data.tasks, *HUB_TASKS], "on the hub, nor in data.tasks")
        return _Source("the hub", hub_splits(name), lambda split: hub_examples(name, split, task.formulation))
    if data.root == "generated":
        _check_known(name, list(GENERATED_TASKS), "among the generated tasks")
        return _Source("generated", SPLITS, lambda split: generated_examples(name, split, data.split_seed))
    root = Path(brought(data.root))
    _check_known(name, folder_tasks(root), f"in {data.root}", _other_files(root, name))
    found = folder_splits(root, name)
    return _Source(data.root, found, lambda split: folder_examples(root, name, split, task.formulation))


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
